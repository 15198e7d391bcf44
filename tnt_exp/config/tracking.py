"""What is logged to MLflow, and where."""

from dataclasses import dataclass

from tnt_exp.config.field import config_field


@dataclass
class TrackingConfig:
    """MLflow. The run folder is complete without it."""

    enabled: bool = config_field(True, "log to MLflow")
    uri: str | None = config_field(None, "tracking server or database; null: sqlite in the working folder")
    experiment: str = config_field("tnt", "MLflow experiment; created when new")
    run_name: str | None = config_field(
        None, "MLflow run name; null: the swept values, run.name, or model, dataset and id"
    )
    system_metrics: bool = config_field(True, "CPU, memory and GPU curves")
    log_model: bool = config_field(True, "log the chosen model")
    register: str | None = config_field(
        None, "registered model that the chosen model becomes a version of, champion if it is better; null: none"
    )

"""What MLflow is told."""

from dataclasses import dataclass

from tnt_exp.config.options import option


@dataclass
class TrackingConfig:
    """MLflow. The run folder is complete without it."""

    enabled: bool = option(True, "tell MLflow")
    uri: str | None = option(None, "tracking server or database; null: sqlite in the working folder")
    experiment: str = option("tnt", "MLflow experiment; created when new")
    run_name: str | None = option(None, "MLflow run name; null: the run folder's name")
    system_metrics: bool = option(True, "CPU, memory and GPU curves")
    log_model: bool = option(True, "log the chosen model")
    register: str | None = option(
        None, "registered model that the chosen model becomes a version of, champion if it is better; null: none"
    )

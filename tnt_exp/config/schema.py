"""The typed schema of an experiment: the only list of keys."""

from dataclasses import dataclass, field

from tnt_exp.config.augmentation import AugmentationConfig
from tnt_exp.config.dataset import DatasetConfig
from tnt_exp.config.field import config_field
from tnt_exp.config.model import ModelConfig
from tnt_exp.config.optimizer import OptimizerConfig, ScheduleConfig
from tnt_exp.config.trainer import TrainerConfig


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


@dataclass
class RunConfig:
    """The run as a whole."""

    name: str | None = config_field(
        None, "folder under multirun/runs, continued if it exists; null: a new one each time"
    )


@dataclass
class Config:
    """One experiment."""

    model: ModelConfig = field(default_factory=ModelConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    run: RunConfig = field(default_factory=RunConfig)
    seed: int = config_field(0, "seed of weights, batch order, dropout and augmentation", ge=0)

    @property
    def flips_test_images(self) -> bool:
        """Whether validation and test average the logits of each image and its mirror image."""
        given = self.trainer.test_time_flip
        return self.augmentation.horizontal_flip > 0 if given is None else given


GROUPS: dict[str, type] = {
    "model": ModelConfig,
    "augmentation": AugmentationConfig,
    "optimizer": OptimizerConfig,
    "schedule": ScheduleConfig,
    "dataset": DatasetConfig,
    "trainer": TrainerConfig,
    "tracking": TrackingConfig,
}

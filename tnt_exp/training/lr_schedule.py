"""The learning rate as a plain function of the training step."""

import math
from dataclasses import dataclass

from tnt_exp.config.optimizer import ScheduleConfig, Shape


@dataclass(frozen=True)
class LearningRateSchedule:
    """Learning rate of each step, computed on the host and handed to the compiled step.

    Args:
        config: The course.
        peak: Highest learning rate.
        steps_per_epoch: Updates an epoch.
        epochs: Epochs of the run.
    """

    config: ScheduleConfig
    peak: float
    steps_per_epoch: int
    epochs: int

    def __call__(self, step: int) -> float:
        """The learning rate of step 0, 1, ..."""
        config = self.config
        warmup = round(config.warmup_epochs * self.steps_per_epoch)
        if step < warmup:
            part = step / warmup
            if config.name is Shape.one_cycle:
                part = (1 - math.cos(math.pi * part)) / 2
            return config.warmup_learning_rate + (self.peak - config.warmup_learning_rate) * part
        if config.name is Shape.constant:
            return self.peak
        if config.name is Shape.step:
            fallen = sum(step >= epoch * self.steps_per_epoch for epoch in config.step_epochs)
            return self.peak * config.step_factor**fallen
        # The last step has the final rate, the first after the warm-up the peak.
        last = self.epochs * self.steps_per_epoch - 1
        part = min(1.0, (step - warmup) / max(1, last - warmup))
        return (
            config.final_learning_rate + (self.peak - config.final_learning_rate) * (1 + math.cos(math.pi * part)) / 2
        )

"""The learning rate as a plain function of the training step."""

import math
from dataclasses import dataclass

from tnt_exp.config.optimizer import ScheduleConfig, Shape


@dataclass(frozen=True)
class LearningRateSchedule:
    """The learning rate of each step, computed on the host and passed to the compiled step.

    Args:
        config: The schedule.
        peak: The highest learning rate.
        steps_per_epoch: Updates per epoch.
        epochs: Epochs of the run.
    """

    config: ScheduleConfig
    peak: float
    steps_per_epoch: int
    epochs: int

    def __call__(self, step: int) -> float:
        """Return the learning rate of step 0, 1, ..."""
        config = self.config
        warmup = round(config.warmup_epochs * self.steps_per_epoch)
        if step < warmup:
            fraction = step / warmup
            if config.name is Shape.one_cycle:
                fraction = (1 - math.cos(math.pi * fraction)) / 2
            return config.warmup_learning_rate + (self.peak - config.warmup_learning_rate) * fraction
        if config.name is Shape.constant:
            return self.peak
        if config.name is Shape.step:
            drops = sum(step >= epoch * self.steps_per_epoch for epoch in config.step_epochs)
            return self.peak * config.step_factor**drops
        # The last step has the final rate, the first after the warm-up the peak.
        last = self.epochs * self.steps_per_epoch - 1
        fraction = min(1.0, (step - warmup) / max(1, last - warmup))
        return (
            config.final_learning_rate
            + (self.peak - config.final_learning_rate) * (1 + math.cos(math.pi * fraction)) / 2
        )

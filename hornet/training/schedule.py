"""The learning rate as a function of the step: nothing to checkpoint, testable by calling."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hornet.training.config import ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A ScheduleConfig in steps."""

    num_steps: int
    """Optimizer steps in the whole run."""
    num_warmup_steps: int
    """Optimizer steps of the rise."""
    peak_lr: float
    """Learning rate at the end of the rise."""
    min_lr: float
    """Learning rate the cosine tends to."""

    def lr_at(self, step: int) -> float:
        """Return the learning rate of the 0-based `step`.

        As the original's cosine_scheduler (utils.py @ac9e210): a linspace from 0 to the peak that includes both ends,
        then half a cosine that starts at the peak.
        """
        if step < self.num_warmup_steps:
            return self.peak_lr * step / max(1, self.num_warmup_steps - 1)
        progress = (step - self.num_warmup_steps) / max(1, self.num_steps - self.num_warmup_steps)
        return self.min_lr + 0.5 * (self.peak_lr - self.min_lr) * (1 + math.cos(math.pi * progress))


def plan_schedule(config: ScheduleConfig, *, steps_per_epoch: float) -> Schedule:
    """Turn epochs into optimizer steps, rounded to the nearest; at least one."""
    return Schedule(
        num_steps=max(1, round(config.num_epochs * steps_per_epoch)),
        num_warmup_steps=round(config.warmup_epochs * steps_per_epoch),
        peak_lr=config.peak_lr,
        min_lr=config.min_lr,
    )

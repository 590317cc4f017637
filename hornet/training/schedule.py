"""The learning rate as a function of the step: nothing to checkpoint, testable by calling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from hornet.training.config import ScheduleConfig, StepScheduleConfig


class Schedule(Protocol):
    """How long a run is, and its learning rates."""

    @property
    def num_steps(self) -> int:
        """Optimizer steps in the whole run."""
        ...

    def lr_at(self, step: int) -> float:
        """Return the learning rate of the 0-based `step`."""
        ...


@dataclass(frozen=True, kw_only=True)
class CosineSchedule:
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


@dataclass(frozen=True, kw_only=True)
class PolySchedule:
    """A rise, and a power of what is left of the run."""

    config: StepScheduleConfig
    """Its numbers."""

    @property
    def num_steps(self) -> int:
        """Optimizer steps in the whole run."""
        return self.config.num_steps

    def lr_at(self, step: int) -> float:
        """Return the learning rate of the 0-based `step`.

        As mmcv's poly policy with a linear warm-up: the curve begins at step 0, and the warm-up is a factor on it.
        """
        config = self.config
        left: float = (1 - step / config.num_steps) ** config.power
        lr = config.min_lr + (config.peak_lr - config.min_lr) * left
        if step >= config.warmup_steps:
            return lr
        return lr * (1 - (1 - step / config.warmup_steps) * (1 - config.warmup_factor))


def plan_schedule(config: ScheduleConfig, *, steps_per_epoch: float) -> CosineSchedule:
    """Turn epochs into optimizer steps, rounded to the nearest; at least one."""
    return CosineSchedule(
        num_steps=max(1, round(config.num_epochs * steps_per_epoch)),
        num_warmup_steps=round(config.warmup_epochs * steps_per_epoch),
        peak_lr=config.peak_lr,
        min_lr=config.min_lr,
    )

"""The learning rate as a function of the step: nothing to checkpoint, testable by calling."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hornet.training.config import Cooldown, ScheduleConfig, StepScheduleConfig


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
    """Learning rate that the cosine, or the cooldown, tends to."""
    num_cooldown_steps: int | None = None
    """Optimizer steps of the cooldown at the end, with the peak before it; None for a cosine."""
    cooldown: Cooldown = "1-sqrt"
    """How the rate falls in the cooldown, over the share of it that is done: by the square root or in a line."""

    @property
    def num_stable_steps(self) -> int | None:
        """Steps before the cooldown, whose learning rates do not depend on the run's length; None for a cosine."""
        return None if self.num_cooldown_steps is None else self.num_steps - self.num_cooldown_steps

    def lr_at(self, step: int) -> float:
        """Return the learning rate of the 0-based `step`.

        Cosine as the original's cosine_scheduler (utils.py @ac9e210): a linspace from 0 to the peak that includes both
        ends, then half a cosine that starts at the peak. The cooldown starts at the peak too; 1 - sqrt over the last
        fifth is what Haegele et al. 2024 (arXiv 2405.18392, section 3) found best, beside the linear one.
        """
        if step < self.num_warmup_steps:
            return self.peak_lr * step / max(1, self.num_warmup_steps - 1)
        if self.num_cooldown_steps is not None:
            return self._cool_down(step - self.num_steps + self.num_cooldown_steps)
        progress = (step - self.num_warmup_steps) / max(1, self.num_steps - self.num_warmup_steps)
        return self.min_lr + 0.5 * (self.peak_lr - self.min_lr) * (1 + math.cos(math.pi * progress))

    def _cool_down(self, step: int) -> float:
        """Return the learning rate of the `step`-th step of the cooldown, the peak where that is negative."""
        if step <= 0:  # exactly the peak, whatever min_lr is: branches of other lengths had it too
            return self.peak_lr
        assert self.num_cooldown_steps is not None
        progress = step / self.num_cooldown_steps
        rest = 1 - (math.sqrt(progress) if self.cooldown == "1-sqrt" else progress)
        return self.min_lr + (self.peak_lr - self.min_lr) * rest


@dataclass(frozen=True, kw_only=True)
class PolySchedule:
    """A rise, and a power of what is left of the run, or a staircase."""

    config: StepScheduleConfig
    """Learning rates, and the warm-up and the power or staircase between them, in optimizer steps."""

    @property
    def num_steps(self) -> int:
        """Optimizer steps in the whole run."""
        return self.config.num_steps

    def lr_at(self, step: int) -> float:
        """Return the learning rate of the 0-based `step`.

        As mmcv's policies poly and step with a linear warm-up: the curve begins at step 0, and the warm-up is a factor
        on it.
        """
        config = self.config
        if config.drop_steps:
            lr = config.peak_lr * 0.1 ** sum(step >= drop for drop in config.drop_steps)
        else:
            left: float = (1 - step / config.num_steps) ** config.power
            lr = config.min_lr + (config.peak_lr - config.min_lr) * left
        if step >= config.warmup_steps:
            return lr
        return lr * (1 - (1 - step / config.warmup_steps) * (1 - config.warmup_factor))


def plan_schedule(config: ScheduleConfig, *, steps_per_epoch: float) -> Schedule:
    """Turn epochs into optimizer steps, rounded to the nearest; at least one, of a cooldown too."""
    num_steps = max(1, round(config.num_epochs * steps_per_epoch))
    num_warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    num_cooldown_steps = None
    if config.shape == "wsd":
        num_cooldown_steps = max(1, min(round(config.cooldown_share * num_steps), num_steps - num_warmup_steps))
    return Schedule(
        num_steps=num_steps,
        num_warmup_steps=num_warmup_steps,
        peak_lr=config.peak_lr,
        min_lr=config.min_lr,
        num_cooldown_steps=num_cooldown_steps,
        cooldown=config.cooldown,
    )

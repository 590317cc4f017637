"""Arithmetic of paired runs: differences and their intervals over seeds, steps of equal compute."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hornet.errors import UserError

T_975 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)
"""Student's t: 97.5 % quantiles at 1 to 9 degrees of freedom."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over seeds and its 95 % t interval; without two values there is none."""

    mean: float
    half_width: float | None
    num_values: int

    def __str__(self) -> str:
        if self.half_width is None:
            return f"{self.mean:+.2f} (one seed, no interval)"
        low, high = self.mean - self.half_width, self.mean + self.half_width
        return f"{self.mean:+.2f} ({low:+.2f} to {high:+.2f})"


def average(values: Sequence[float]) -> Interval:
    """Return the mean of 1 to 10 values, with the interval of as many independent draws."""
    if not values:
        raise ValueError("there are no values to average")
    count = len(values)
    half_width = None if count < 2 else T_975[count - 2] * statistics.stdev(values) / math.sqrt(count)
    return Interval(mean=statistics.fmean(values), half_width=half_width, num_values=count)


def compare(ours: Mapping[int, float], others: Mapping[int, float]) -> Interval | None:
    """Return the interval of `ours` minus `others`, by seed, for seeds that both have; None without any."""
    seeds = sorted(ours.keys() & others.keys())
    return average([ours[seed] - others[seed] for seed in seeds]) if seeds else None


def blend(first: Mapping[int, float], second: Mapping[int, float]) -> dict[int, float]:
    """Return the mean of both by seed, where both are: one side of a main effect of a design of two by two."""
    return {seed: (first[seed] + second[seed]) / 2 for seed in sorted(first.keys() & second.keys())}


def choose_equal_steps(*, stages: Sequence[tuple[int, int]], flops: int) -> int:
    """Return the steps of `flops` each whose sum is nearest to that of `stages`: (steps, FLOPs of one), at equal batch.

    Raises UserError if the nearest is more than 1 % off: then the stages are too short to be compared.
    """
    wanted = sum(steps * each for steps, each in stages)
    steps = max(1, round(wanted / flops))
    if abs(steps * flops / wanted - 1) > 0.01:
        raise UserError(
            f"{steps} steps from scratch are {100 * steps * flops / wanted:.1f} % of the FLOPs of pretraining and "
            "finetuning; give more pretrain_steps or finetune_steps"
        )
    return steps

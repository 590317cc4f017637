"""How long several ways of computing the same logits take on this machine, side by side."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

NUM_WARMUPS = 2
MIN_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Of one way at one batch size."""

    name: str
    batch_size: int
    seconds: float
    """Median over the rounds."""
    ratio: float
    """Median over the rounds of its seconds over those of the first way in the same round."""


@torch.inference_mode()
def measure_latency(
    ways: Mapping[str, Callable[[Tensor], object]],
    *,
    image_size: int,
    batch_sizes: Sequence[int],
    seconds: float,
    read_clock: Callable[[], float],
) -> list[Latency]:
    """Run all ways in turn, round after round, for about `seconds` a batch size; at least 5 rounds.

    In turn, so that whatever else the machine does falls on all of them, and the ratios hold where the times do not.
    """
    measured = []
    for batch_size in batch_sizes:
        images = torch.randn(batch_size, 3, image_size, image_size)
        for _ in range(NUM_WARMUPS):
            for compute in ways.values():
                compute(images)
        rounds: list[dict[str, float]] = []
        begun = read_clock()
        while len(rounds) < MIN_ROUNDS or read_clock() - begun < seconds:
            rounds.append({name: _time(compute, images, read_clock) for name, compute in ways.items()})
        first = next(iter(ways))
        measured += [
            Latency(
                name=name,
                batch_size=batch_size,
                seconds=median(row[name] for row in rounds),
                ratio=median(row[name] / row[first] for row in rounds),
            )
            for name in ways
        ]
    return measured


def _time(compute: Callable[[Tensor], object], images: Tensor, read_clock: Callable[[], float]) -> float:
    begun = read_clock()
    compute(images)
    return read_clock() - begun


def format_latencies(rows: Sequence[Latency]) -> str:
    """Return a table, one line a way and batch size."""
    head = f"latency on {platform.machine()}, {torch.get_num_threads()} of its threads, fp32"
    lines = [
        f"  {row.name:16} {row.batch_size:3} images {1000 * row.seconds:9.2f} ms "
        f"{row.batch_size / row.seconds:9.1f} images/s  {row.ratio:6.2f} x {rows[0].name}"
        for row in rows
    ]
    return "\n".join([head, *lines])

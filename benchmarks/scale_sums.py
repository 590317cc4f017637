"""A small sum over ranks, as a run takes three of in every step: gloo's all-reduce beside ours, and connections."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from hornet.training.process_group import sum_over_ranks
from hornet.world import World
from tests.integration.resharding import run_world

RANKS = (2, 4, 8, 16, 32)
NUM_SUMS = 30


def measure_sums() -> None:
    """Print both for worlds of several sizes, all on this machine's cores."""
    print(f"\nSmall sums: all ranks on {os.cpu_count()} cores, median of {NUM_SUMS}")
    print("  ranks  open files  all-reduce us (messages in a row)    ours us (messages in a row)")
    for num_ranks in RANKS:
        run_world(num_ranks, _measure)


def _measure(world: World) -> None:
    torch.set_num_threads(1)
    values = torch.tensor([float(world.rank), 1.0], dtype=torch.float64)
    ring = _time(lambda: dist.all_reduce(values.clone()))
    ours = _time(lambda: sum_over_ranks(values))
    if world.is_main:
        num_ranks = world.num_ranks
        print(
            f"{num_ranks:>7}{len(os.listdir('/proc/self/fd')):>12}{1e6 * ring:>15.0f} ({2 * (num_ranks - 1)})"
            f"{1e6 * ours:>25.0f} ({(num_ranks - 1).bit_length()})",
            flush=True,
        )


def _time(action: Callable[[], object]) -> float:
    times = []
    for _ in range(NUM_SUMS):
        dist.barrier()
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times)

"""Sums over ranks: small ones, one in every step of a run, and what summing gradients in bf16 would cost."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from hornet.drills.forked_ranks import run_world
from hornet.training.process_group import sum_over_ranks
from hornet.world import World

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
            f"{num_ranks:>7}{len(list(Path('/proc/self/fd').iterdir())):>12}{1e6 * ring:>15.0f} ({2 * (num_ranks - 1)})"
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


def measure_rounding() -> None:
    """Print how far off a mean of drawn gradients is if it is summed in bf16, one rank after the other."""
    print("\nMeans in bf16, relative error of the whole; an element's mean over its deviation is 0.1")
    random = torch.Generator().manual_seed(0)
    for num_ranks in (8, 64, 512):
        gradients = (torch.randn(num_ranks, 20_000, generator=random) + 0.1) / num_ranks
        total = gradients[0].bfloat16()
        for gradient in gradients[1:]:
            total = (total.float() + gradient.bfloat16().float()).bfloat16()
        exact = gradients.double().sum(0)
        print(f"{num_ranks:>7} ranks {float((total.double() - exact).norm() / exact.norm()):>8.2%}")

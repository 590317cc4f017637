"""What this machine can do at most: the rate of a large matrix product, the bandwidth of a large copy."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch


def describe_machine(device: torch.device) -> dict[str, object]:
    """Return what a reader needs to know of it."""
    is_cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if is_cuda else _read_cpu_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def measure_product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return operations a second of a square matrix product: of 8,192 rows on a GPU, of 1,024 on a CPU."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / _time(lambda: left @ right, device)


def measure_copy_bandwidth(device: torch.device) -> float:
    """Return bytes a second, read and written, of copying a large tensor."""
    source = torch.ones((2**30 if device.type == "cuda" else 2**27) // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _time(lambda: target.copy_(source), device)


def _time(action: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(12):
        started = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


def _read_cpu_name() -> str:
    try:
        with Path("/proc/cpuinfo").open() as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return f"{len(names)} x {names[0]}" if names else platform.processor()

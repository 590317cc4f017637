"""The largest micro batch that fits in a device's memory.

A GPU is asked: a trial runs beside a ballast of all that training will hold besides, and either ends or runs out of
memory. A CPU never says no, so there the bytes that autograd keeps for an image are counted.
Not here: what a trial is (hornet/stages/micro_batch.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hornet.errors import UserError
from hornet.quantities import list_divisors

GPU_MARGIN = 0.07
"""Share of a GPU's memory kept free: the communication library's buffers, and blocks that do not fit each other."""
CPU_SHARE = 0.5
"""Share of a node's available memory that its ranks may plan with; data workers and others take from it too."""
PROBED_SIZE = 8
"""Images of the second trial on a GPU, from which memory per image is estimated."""

# Runs forward and backward over that many images, and leaves no gradients.
Trial = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What a search found."""

    size: int
    """Images."""
    used_bytes: int
    """Memory in use at that size, by measurement or estimate, with all that training holds."""
    total_bytes: int
    """Memory there is for this rank."""


def find_largest(sizes: Sequence[int], *, start: float, fits: Callable[[int], bool]) -> int | None:
    """Return the largest of the ascending `sizes` that fits, asking from the last one not above `start` up or down.

    What fits is taken to fit at every smaller size too. None if not even the smallest does.
    """
    index = max([position for position, size in enumerate(sizes) if size <= start], default=0)
    if fits(sizes[index]):
        while index + 1 < len(sizes) and fits(sizes[index + 1]):
            index += 1
        return sizes[index]
    return next((size for size in reversed(sizes[:index]) if fits(size)), None)


def fit_on_gpu(share: int, *, trial: Trial, reserve_bytes: int, device: torch.device) -> Fit:
    """Find the largest divisor of `share` whose trial ends beside `reserve_bytes` and the margin.

    Raises UserError if a single image does not fit.
    """
    torch.cuda.empty_cache()
    _, total_bytes = torch.cuda.mem_get_info(device)
    ballast_bytes = reserve_bytes + int(GPU_MARGIN * total_bytes)
    peaks: dict[int, int] = {}

    def fits(size: int) -> bool:
        if size not in peaks:
            peak = _measure_peak(size, trial=trial, ballast_bytes=ballast_bytes, device=device)
            if peak is None:
                return False
            peaks[size] = peak
        return True

    sizes = list_divisors(share)
    probed = max(size for size in sizes if size <= PROBED_SIZE)
    start = float(sizes[0])
    if fits(sizes[0]) and fits(probed) and probed > sizes[0]:
        slope = (peaks[probed] - peaks[sizes[0]]) / (probed - sizes[0])
        start = probed + (total_bytes - peaks[probed]) / max(slope, 1.0)
    size = find_largest(sizes, start=start, fits=fits)
    if size is None:
        raise UserError(_describe_lack(ballast_bytes, total_bytes))
    return Fit(size=size, used_bytes=peaks[size] - int(GPU_MARGIN * total_bytes), total_bytes=total_bytes)


def fit_on_cpu(share: int, *, trial: Trial, reserve_bytes: int, available_bytes: int) -> Fit:
    """Find the largest divisor of `share` whose saved activations, estimated from two trials, fit beside the reserve.

    Raises UserError if a single image does not fit.
    """
    one = count_saved_bytes(trial, 1)
    per_image = max(1, count_saved_bytes(trial, 2) - one)

    def count_used(size: int) -> int:
        return reserve_bytes + one + (size - 1) * per_image

    size = find_largest(list_divisors(share), start=1, fits=lambda size: count_used(size) <= available_bytes)
    if size is None:
        raise UserError(_describe_lack(count_used(1), available_bytes))
    return Fit(size=size, used_bytes=count_used(size), total_bytes=available_bytes)


def count_saved_bytes(trial: Trial, size: int) -> int:
    """Return the bytes that autograd keeps between forward and backward of a trial, every storage once."""
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        trial(size)
    return sum(saved.values())


def read_available_bytes(num_local_ranks: int, *, source: Path = Path("/proc/meminfo")) -> int:
    """Return the memory a rank on a CPU node may plan with.

    Raises UserError where the system does not tell.
    """
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", source.read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found is None:
        raise UserError(f"micro_batch_size: auto needs {source}, which this system lacks; give a number")
    return int(CPU_SHARE * int(found[1]) * 1024 / num_local_ranks)


def _measure_peak(size: int, *, trial: Trial, ballast_bytes: int, device: torch.device) -> int | None:
    """Return the most bytes allocated during a trial, ballast included; None if memory ran out."""
    is_out = False
    torch.cuda.reset_peak_memory_stats(device)
    try:
        ballast = torch.empty(ballast_bytes, dtype=torch.uint8, device=device)
        trial(size)
        del ballast
    except torch.cuda.OutOfMemoryError:
        is_out = True
    # Outside the handler, where the error's frames, and what they hold, are gone.
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.empty_cache()
    return None if is_out else peak


def _describe_lack(needed_bytes: int, total_bytes: int) -> str:
    return (
        f"micro_batch_size: not even one image fits in {total_bytes / 2**30:.1f} GiB, of which training holds "
        f"{needed_bytes / 2**30:.1f} without activations; shard more (zero.stage), set model.activation_checkpointing, "
        "or take more ranks"
    )

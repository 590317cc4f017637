"""What GPUs can do, by the vendors' data sheets: memory and the dense rate of bf16 matrix products.

A rate is what utilisation (MFU) is measured by, so it is the data sheet's, without sparsity, not a measured one.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from hornet.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One kind of accelerator."""

    key: str
    """How a user names it."""
    words: tuple[str, ...]
    """All occur in what torch.cuda.get_device_name calls it."""
    memory_gib: float
    """Of one device."""
    peak_tflops: float | None
    """Dense bf16 matrix products with fp32 accumulation, 1e12 operations a second; None where bf16 is not supported."""
    watts: int
    """Board power."""


# Where several fit a device's name, the one with more words does: "H100 PCIe" before "H100".
GPUS = (
    # NVIDIA data sheets of each product; where only a sparse rate is printed, half of it.
    Gpu(key="v100-32", words=("V100", "32GB"), memory_gib=32, peak_tflops=None, watts=300),
    Gpu(key="a100-40", words=("A100", "40GB"), memory_gib=40, peak_tflops=312, watts=400),
    Gpu(key="a100-80", words=("A100", "80GB"), memory_gib=80, peak_tflops=312, watts=400),
    Gpu(key="h100-pcie", words=("H100", "PCIe"), memory_gib=80, peak_tflops=756, watts=350),
    Gpu(key="h100-80", words=("H100",), memory_gib=80, peak_tflops=989, watts=700),
    Gpu(key="h200-141", words=("H200",), memory_gib=141, peak_tflops=989, watts=700),
    Gpu(key="b200", words=("B200",), memory_gib=180, peak_tflops=2250, watts=1000),
    Gpu(key="l40s", words=("L40S",), memory_gib=48, peak_tflops=362, watts=350),
    Gpu(key="rtx4090", words=("RTX 4090",), memory_gib=24, peak_tflops=165, watts=450),
    # AMD data sheet.
    Gpu(key="mi300x", words=("MI300X",), memory_gib=192, peak_tflops=1307, watts=750),
)


def get_gpu(key: str) -> Gpu:
    """Return the GPU that a user names; raises UserError with the nearest names."""
    for gpu in GPUS:
        if gpu.key == key:
            return gpu
    known = [gpu.key for gpu in GPUS]
    near = [name for name in known if key and name.startswith(key.lower())] or get_close_matches(key.lower(), known)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
    raise UserError(f"gpu: {key!r} is none that is known; {hint}")


def find_gpu(device_name: str) -> Gpu | None:
    """Return the entry that fits best what torch.cuda.get_device_name says; None if the device is not known."""
    fitting = [gpu for gpu in GPUS if all(word in device_name for word in gpu.words)]
    return max(fitting, key=lambda gpu: len(gpu.words), default=None)


def find_peak_flops(device_name: str) -> float | None:
    """Return a device's dense bf16 rate in operations a second; None if it is not known."""
    gpu = find_gpu(device_name)
    return None if gpu is None or gpu.peak_tflops is None else gpu.peak_tflops * 1e12

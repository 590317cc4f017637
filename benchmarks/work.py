"""Kernels as numbers: what each computes and moves, and how long it takes at given rates. No torch, no model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a device does in a second."""

    product_flops: float = 790e12
    """bf16 matrix products; an H200 was measured at 769 to 798 TFLOP/s (8,192 cubed)."""
    vector_flops: float = 60e12
    """float32 without tensor cores (depthwise convolutions, our transforms): 0.9 of the data sheet's 67 TFLOP/s."""
    bandwidth: float = 0.9 * 4.8e12
    """Bytes of device memory: 0.9 of the data sheet's 4.8 TB/s; a copy was measured at 4.3 TB/s."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """One kernel, for one image."""

    part: str
    """"stage_1" to "stage_4", "head", "weights" (the optimizer's step, shared by the batch)."""
    kind: str
    is_backward: bool
    flops: float
    num_bytes: float
    is_vector: bool = False
    """It computes without tensor cores."""

    def compute_seconds(self, rates: Rates) -> float:
        """Return how long it takes at least."""
        return max(self._compute_alone(rates), self.num_bytes / rates.bandwidth)

    def is_bound_by_memory(self, rates: Rates) -> bool:
        """Whether moving takes longer than computing."""
        return self.num_bytes / rates.bandwidth > self._compute_alone(rates)

    def _compute_alone(self, rates: Rates) -> float:
        return self.flops / (rates.vector_flops if self.is_vector else rates.product_flops)


@dataclass(frozen=True, kw_only=True)
class Row:
    """Sums over the kernels of one kind in one part."""

    flops: float
    num_bytes: float
    seconds: float
    memory_share: float
    """Of the seconds, those of kernels that wait for memory."""


def add_up(work: list[Work], rates: Rates) -> dict[tuple[str, str], Row]:
    """Return the sums by part and kind, in the order of their first kernel."""
    keys = dict.fromkeys((kernel.part, kernel.kind) for kernel in work)
    return {key: add_up_all([kernel for kernel in work if (kernel.part, kernel.kind) == key], rates) for key in keys}


def add_up_all(work: list[Work], rates: Rates) -> Row:
    """Return the sums over all kernels."""
    seconds = sum(kernel.compute_seconds(rates) for kernel in work)
    waiting = sum(kernel.compute_seconds(rates) for kernel in work if kernel.is_bound_by_memory(rates))
    return Row(
        flops=sum(kernel.flops for kernel in work),
        num_bytes=sum(kernel.num_bytes for kernel in work),
        seconds=seconds,
        memory_share=waiting / seconds if seconds else 0.0,
    )

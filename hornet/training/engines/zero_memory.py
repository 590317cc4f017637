"""What ZeRO keeps on a rank, by its formula (Rajbhandari et al. 2020, section 3 and 5), for fp32 parameters.

The paper counts 2 + 2 + K bytes a parameter, K = 12 for mixed precision with Adam. Here weights and gradients are fp32,
and the optimizer's part is two moments and, from stage 1 on, the rank's slice of master weights.
"""

from __future__ import annotations

from dataclasses import dataclass

FP32_BYTES = 4
BUCKETS = 2
"""Buffers of `bucket_elements` in fp32 that reducing fills: one while the other travels."""


@dataclass(frozen=True, kw_only=True)
class StateBytes:
    """Bytes on one rank, activations and communication left out."""

    parameters: int
    gradients: int
    optimizer: int
    """Moments, master weights, moving average; on the host if offloaded."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.gradients + self.optimizer


def count_state_bytes(num_parameters: int, *, stage: int, num_ranks: int, has_ema: bool) -> StateBytes:
    """Return what a rank holds when a step's gradient is complete; paddings (a few elements a parameter) left out."""
    whole = FP32_BYTES * num_parameters
    slice_ = -(-whole // num_ranks)
    if stage == 0:
        return StateBytes(parameters=whole, gradients=whole, optimizer=whole * (2 + has_ema))
    return StateBytes(
        parameters=slice_ if stage == 3 else whole,
        gradients=whole if stage == 1 else slice_,
        optimizer=slice_ * (3 + has_ema),
    )


def count_bucket_bytes(bucket_elements: int, *, num_parameters: int) -> int:
    """Return what communication holds at most."""
    return BUCKETS * FP32_BYTES * min(bucket_elements, num_parameters)

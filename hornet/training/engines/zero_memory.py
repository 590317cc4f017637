"""What a rank holds besides activations under each ZeRO stage, as arithmetic on the parameters' sizes, all in fp32.

The formula is that of Rajbhandari et al. 2020 (sections 3 and 5) for fp32 weights and gradients: two moments and, from
stage 1 on, the rank's slice of master weights. As DeepSpeed 0.19 does it with our settings (`make_deepspeed_config`),
which is more than the paper has: stage 2 keeps the gradients of all parameters that its slice touches, whole; stage 3
keeps small parameters whole beside their slices, and large ones, once gathered, until the backward pass has used them.
Counted against the tensors of the real engine in tests/integration/test_held_memory.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from hornet.quantities import FP32_BYTES
from hornet.training.engines.communication import LARGEST_PERSISTENT
from hornet.training.engines.zero_config import ZeroConfig

LARGEST_GATHERED = 1_000_000_000
"""Elements that stage 3 keeps gathered at a time (DeepSpeed's max_live_parameters)."""


@dataclass(frozen=True, kw_only=True)
class StateBytes:
    """Bytes on one rank, activations left out; paddings of a few elements too."""

    parameters: int
    gradients: int
    optimizer: int
    """Moments, master weights, moving average."""
    gathered: int
    """Other ranks' parameters, while a micro batch is on its way (stage 3)."""
    buckets: int
    """Gradients on their way to other ranks."""

    @property
    def total(self) -> int:
        """All of it: what is there at the peak."""
        return self.parameters + self.gradients + self.optimizer + self.gathered + self.buckets


def count_deepspeed_bytes(
    num_elements: Sequence[int], *, config: ZeroConfig, num_ranks: int, has_ema: bool, offloads: bool
) -> StateBytes:
    """Return what a rank holds on its device, for parameters of these sizes.

    `offloads`: the host's memory is another one, so that an offloaded optimizer does not count.
    """
    whole = FP32_BYTES * sum(num_elements)
    if config.stage == 0:
        return StateBytes(parameters=whole, gradients=whole, optimizer=whole * (2 + has_ema), gathered=0, buckets=0)
    bucket = FP32_BYTES * config.bucket_elements  # allocated whole, however small the network
    slice_ = FP32_BYTES * sum(-(-elements // num_ranks) for elements in num_elements)
    optimizer = 0 if config.offload_optimizer and offloads else slice_ * (3 + has_ema)
    if config.stage == 3:
        small = FP32_BYTES * sum(elements for elements in num_elements if elements <= LARGEST_PERSISTENT)
        gathered = min(whole - small, FP32_BYTES * LARGEST_GATHERED)
        return StateBytes(
            parameters=slice_ + small, gradients=slice_, optimizer=optimizer, gathered=gathered, buckets=bucket
        )
    buckets = 2 * bucket  # one is filled while the other travels
    gradients = whole
    if config.stage == 2:
        gradients = FP32_BYTES * _count_touched(num_elements, num_ranks=num_ranks)
        buckets += gradients  # each micro batch's own, until they are added to those before
    return StateBytes(parameters=whole, gradients=gradients, optimizer=optimizer, gathered=0, buckets=buckets)


def count_data_parallel_bytes(num_elements: Sequence[int], *, num_ranks: int, has_ema: bool) -> StateBytes:
    """Return what a rank holds under plain data parallelism (torch's DDP): its buckets are a copy of the gradients."""
    unsharded = count_deepspeed_bytes(
        num_elements, config=ZeroConfig(stage=0), num_ranks=num_ranks, has_ema=has_ema, offloads=False
    )
    return replace(unsharded, buckets=unsharded.gradients if num_ranks > 1 else 0)


def _count_touched(num_elements: Sequence[int], *, num_ranks: int) -> int:
    """Return the elements of all parameters that a rank's slice touches, for the rank with the most."""
    share = -(-sum(num_elements) // num_ranks)
    touched = [0] * num_ranks
    for end, elements in zip(accumulate(num_elements), num_elements, strict=True):
        for rank in range((end - elements) // share, (end - 1) // share + 1):
            touched[rank] += elements
    return max(touched)

"""Settings of the DeepSpeed engine, apart from it: importing deepspeed takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from hornet.config import Settings, resumable


@dataclass(frozen=True, kw_only=True)
class ZeroConfig(Settings):
    """How DeepSpeed shards and computes."""

    stage: Literal[0, 1, 2, 3] = resumable(1)
    """ZeRO stage: 0 shards nothing, 1 the optimizer, 2 gradients too, 3 parameters too."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """bf16: forward and backward under autocast; parameters, gradient sums and optimizer are fp32 in both."""
    bucket_elements: int = resumable(50_000_000)
    """Elements per communication bucket; DeepSpeed's own 5e8 would take 4 GB of buffers."""
    offload_optimizer: bool = resumable(False)
    """Keep this rank's optimizer state in the host's memory and step there; needs stage 1 or more."""

    def _find_problems(self) -> Iterator[str]:
        if self.offload_optimizer and self.stage == 0:
            yield "offload_optimizer: needs stage 1, 2 or 3: stage 0 leaves the optimizer to torch"
        if self.bucket_elements < 1:
            yield f"bucket_elements: must be at least 1, not {self.bucket_elements}"

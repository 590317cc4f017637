"""Settings of the network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hornet.config import Settings, resumable
from hornet.model.sizes import MIN_IMAGE_SIZE, VARIANTS, Kernels


def find_image_size_problems(size: int, *, key: str) -> Iterator[str]:
    """Yield what is wrong with images of `size` pixels a side, which `key` of a config asks for."""
    if size < MIN_IMAGE_SIZE:
        yield f"{key}: must be at least {MIN_IMAGE_SIZE} pixels, the stride of the network, not {size}"


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """Which network, and what is switched on in it while it trains."""

    name: str
    """One of our networks, such as hornet_large_gf; a wrong name lists them all."""
    drop_path_rate: float = 0.0
    """Largest rate of stochastic depth; it grows linearly from 0 at the first block."""
    layer_scale_init: float = 1e-6
    """Initial value of the layer scales."""
    activation_checkpointing: bool = resumable(False)
    """Compute each block's activations again in the backward pass instead of keeping them."""
    kernels: Kernels = resumable("plain")
    """"plain" operators, or "fused": our own kernels for CUDA devices, for 7x7 depthwise convolutions."""
    compile: bool = resumable(False)
    """Compile the network with torch.compile: slower to start, one graph for each image size."""

    def _find_problems(self) -> Iterator[str]:
        if not 0 <= self.drop_path_rate < 1:
            yield f"drop_path_rate: must lie in 0..1 (1 excluded), not {self.drop_path_rate}"
        if self.name not in VARIANTS:
            yield f"name: {self.name!r} is not one of {', '.join(VARIANTS)}"

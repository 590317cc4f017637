"""Settings of a segmenter; imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from hornet.config import Settings, resumable
from hornet.field_types import Arguments
from hornet.model.config import OWN_LAYER_SCALE
from hornet.model.sizes import MIN_IMAGE_SIZE, VARIANTS

Pyramid = Literal["fpn", "horfpn_7x7", "horfpn_gf"]


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig(Settings):
    """UPerNet on a HorNet."""

    name: str
    """Backbone: a HorNet of four stages, such as hornet_tiny_gf."""
    arguments: Arguments | None = None
    """Arguments of the backbone's constructor, such as {width: 64}."""
    filter_size: int = 384
    """Image size whose grids the global filters are kept on, pixels; images may have any size."""
    drop_path_rate: float = 0.0
    """Largest rate of stochastic depth in the backbone."""
    layer_scale_init: float = OWN_LAYER_SCALE
    """Initial value of the backbone's layer scales."""
    pyramid: Pyramid = "fpn"
    """fpn: 3x3 convolutions; horfpn_7x7, horfpn_gf: the fusion is a gnConv, with 7x7 kernels or global filters."""
    channels: int = 512
    """Of the maps in the decoder."""
    auxiliary_weight: float = 0.4
    """Of the loss of the auxiliary head, on the map of stride 16."""
    layer_decay_depth: int = 12
    """Layers for which optimizer.layer_decay takes the backbone: the original's rule by stages, 12, for tiny 6."""
    sync_batch_norm: bool = True
    """Take the decoder's batch statistics over all ranks, on GPUs; on CPUs each rank takes its own."""
    activation_checkpointing: bool = resumable(False)
    """Compute each block's activations again in the backward pass instead of keeping them."""

    def _find_problems(self) -> Iterator[str]:
        if self.name not in VARIANTS:
            yield f"name: {self.name!r} is not one of {', '.join(VARIANTS)}"
        if self.filter_size < MIN_IMAGE_SIZE:
            yield f"filter_size: must be at least {MIN_IMAGE_SIZE} pixels, the network's stride, not {self.filter_size}"
        if not 0 <= self.drop_path_rate < 1:
            yield f"drop_path_rate: must lie in 0..1 (1 excluded), not {self.drop_path_rate}"
        if self.channels < 2 or self.channels % 2:
            yield f"channels: must be even and at least 2, not {self.channels}"
        if self.auxiliary_weight < 0:
            yield f"auxiliary_weight: must be 0 or more, not {self.auxiliary_weight}"
        if self.layer_decay_depth < 4:
            yield f"layer_decay_depth: must be at least 4, the stages, not {self.layer_decay_depth}"

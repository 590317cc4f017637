"""Settings of segmenters and detectors; imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from hornet.config import Settings, resumable
from hornet.field_types import Arguments
from hornet.model.config import OWN_LAYER_SCALE
from hornet.model.sizes import ISOTROPIC_VARIANTS, MIN_IMAGE_SIZE, VARIANTS

Pyramid = Literal["fpn", "horfpn_7x7", "horfpn_gf"]


Detector = Literal["mask_rcnn", "cascade_mask_rcnn"]


@dataclass(frozen=True, kw_only=True)
class DenseBackboneConfig(Settings):
    """A HorNet that gives four maps, and how it learns."""

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
    activation_checkpointing: bool = resumable(False)
    """Compute each block's activations again in the backward pass instead of keeping them."""
    sync_batch_norm: bool = True
    """Take the batch statistics of decoder and heads over all ranks, on GPUs; on CPUs each rank takes its own."""

    def _find_problems(self) -> Iterator[str]:
        staged = [name for name in VARIANTS if name not in ISOTROPIC_VARIANTS]
        if self.name not in staged:
            yield f"name: {self.name!r} is not one of {', '.join(staged)}, which have four stages"
        if self.filter_size < MIN_IMAGE_SIZE:
            yield f"filter_size: must be at least {MIN_IMAGE_SIZE} pixels, the network's stride, not {self.filter_size}"
        if not 0 <= self.drop_path_rate < 1:
            yield f"drop_path_rate: must lie in 0..1 (1 excluded), not {self.drop_path_rate}"
        if self.layer_scale_init < 0:
            yield f"layer_scale_init: must be 0 or more, not {self.layer_scale_init}"


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig(DenseBackboneConfig):
    """UPerNet on a HorNet."""

    pyramid: Pyramid = "fpn"
    """fpn: 3x3 convolutions; horfpn_7x7, horfpn_gf: the fusion is a gnConv, with 7x7 kernels or global filters."""
    channels: int = 512
    """Of the maps in the decoder."""
    auxiliary_weight: float = 0.4
    """Of the loss of the auxiliary head, on the map of stride 16."""
    layer_decay_depth: int = 12
    """Layers for which optimizer.layer_decay takes the backbone: the original's rule by stages, 12, for tiny 6."""

    def _find_problems(self) -> Iterator[str]:
        yield from super()._find_problems()
        yield from find_channel_problems(self.channels, pyramid=self.pyramid)
        if self.auxiliary_weight < 0:
            yield f"auxiliary_weight: must be 0 or more, not {self.auxiliary_weight}"
        if self.layer_decay_depth < 4:
            yield f"layer_decay_depth: must be at least 4, the stages, not {self.layer_decay_depth}"


@dataclass(frozen=True, kw_only=True)
class DetectorConfig(DenseBackboneConfig):
    """Mask R-CNN or Cascade Mask R-CNN on a HorNet."""

    detector: Detector
    """mask_rcnn, or cascade_mask_rcnn: three heads in a row, each on the boxes of the one before."""
    pyramid: Pyramid = "fpn"
    """fpn: 3x3 convolutions; horfpn_7x7, horfpn_gf: gnConvs in their place, with 7x7 kernels or global filters."""
    channels: int = 256
    """Of the pyramid's maps, and of the convolutions in the heads."""
    anchor_size: int = 32
    """Edge of the anchors on the map of stride 4, pixels; on each of the four further maps twice as large."""
    regions_per_image: int = 512
    """Regions of an image that the heads learn from in a step, at most; a quarter of them, at most, of objects."""

    def _find_problems(self) -> Iterator[str]:
        yield from super()._find_problems()
        yield from find_channel_problems(self.channels, pyramid=self.pyramid)
        if self.anchor_size < 1:
            yield f"anchor_size: must be at least 1 pixel, not {self.anchor_size}"
        if self.regions_per_image < 4:
            yield f"regions_per_image: must be at least 4, a quarter of them objects, not {self.regions_per_image}"


def find_channel_problems(channels: int, *, pyramid: Pyramid) -> Iterator[str]:
    """Yield a sentence if the gates of a HorFPN's gnConvs, or their global filters, do not divide the channels."""
    if channels < 2 or channels % 2:
        yield f"channels: must be even and at least 2, not {channels}"
    elif pyramid == "horfpn_gf" and channels % 4:
        yield f"channels: must be a multiple of 4 under pyramid=horfpn_gf, not {channels}"

"""Settings of the data of semantic segmentation: images with masks, their augmentation, how they are evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from hornet.config import Settings
from hornet.data.config import EvaluatedSetConfig, TrainedSetConfig

Inference = Literal["whole", "slide"]


@dataclass(frozen=True, kw_only=True)
class SegmentationTransformConfig(Settings):
    """Augmentation of image and mask together: random scale, random crop, flip, photometric distortion, in this order.

    Source: the original's semantic_segmentation/configs (raoyongming/HorNet at ac9e210), which are mmsegmentation's.
    """

    scale: tuple[int, int] = (2048, 512)
    """Longer and shorter edge, in pixels, that an image is made to fit into, before the random factor."""
    scale_factors: tuple[float, float] = (0.5, 2.0)
    """Range of the random factor on `scale`."""
    crop_size: int = 512
    """Edge of the square given to the network, pixels; a smaller image is filled up, its mask with no class."""
    max_class_share: float = 0.75
    """A crop of which one class has more of the pixels with a class is drawn again, up to 10 times; 1: never."""
    flip_probability: float = 0.5
    """Of mirroring left and right."""
    photometric_distortion: bool = True
    """Draw brightness, contrast, saturation and hue."""

    def _find_problems(self) -> Iterator[str]:
        if not self.scale[0] >= self.scale[1] >= 1:
            yield f"scale: must be the longer and the shorter edge in pixels, not {self.scale}"
        if not 0 < self.scale_factors[0] <= self.scale_factors[1]:
            yield f"scale_factors: must be two factors, 0 < low <= high, not {self.scale_factors}"
        if self.crop_size < 32:
            yield f"crop_size: must be at least 32 pixels, the stride of the network, not {self.crop_size}"
        if not 0 < self.max_class_share <= 1:
            yield f"max_class_share: must be over 0 and at most 1, not {self.max_class_share}"
        if not 0 <= self.flip_probability <= 1:
            yield f"flip_probability: must be a probability from 0 to 1, not {self.flip_probability}"


@dataclass(frozen=True, kw_only=True)
class SegmentationStreamConfig(TrainedSetConfig):
    """The training stream of images with masks: a split's samples in the order of the run, augmented."""

    transform: SegmentationTransformConfig
    """Scale, crop, flip and colours of each image."""


@dataclass(frozen=True, kw_only=True)
class SegmentationEvaluationConfig(EvaluatedSetConfig):
    """A set of images with masks, each measured once, at its own size."""

    scale: tuple[int, int] | None = (2048, 512)
    """Longer and shorter edge, in pixels, that an image is made to fit into; null keeps its size."""
    mode: Inference = "slide"
    """slide: windows of `crop_size` at steps of `stride`, their logits averaged where they overlap; whole: at once."""
    crop_size: int = 512
    """Edge of a window, pixels; for mode slide."""
    stride: int = 341
    """Pixels from window to window; for mode slide."""
    factors: tuple[float, ...] = (1.0,)
    """Factors on the scale at which an image is seen; the probabilities of all are averaged (multi-scale testing)."""
    flip: bool = False
    """See each image mirrored too, at every factor."""

    def _find_problems(self) -> Iterator[str]:
        yield from super()._find_problems()
        if self.scale is not None and not self.scale[0] >= self.scale[1] >= 32:
            yield f"scale: must be the longer and the shorter edge, at least 32 pixels, or null, not {self.scale}"
        if self.crop_size < 32:
            yield f"crop_size: must be at least 32 pixels, the stride of the network, not {self.crop_size}"
        if not 1 <= self.stride <= self.crop_size:
            yield f"stride: must be 1 to crop_size ({self.crop_size}), or pixels are left out, not {self.stride}"
        if not self.factors or min(self.factors) <= 0:
            yield f"factors: must name at least one factor above 0, not {list(self.factors)}"

"""Settings of the data: where it is, how it is read, what is done to images and to batches of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hornet.config import Settings, resumable
from hornet.data.order import PartialBatch
from hornet.field_types import Location
from hornet.shards.remote.files import RemoteConfig

Interpolation = Literal["bicubic", "bilinear"]
Backend = Literal["fast", "pil"]
Channels = tuple[float, float, float]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's and timm's

_RAND_AUGMENT = re.compile(r"rand(-(m\d+|n\d+|mstd\d+(\.\d+)?|mmax\d+|inc[01]|p(0|1|0?\.\d+)|t(weights|3aw?)))*")
"""What timm's rand_augment_transform reads; a part that it would pass over is refused."""


@dataclass(frozen=True, kw_only=True)
class TransformConfig(Settings):
    """Augmentation of training images: random resized crop, flip, RandAugment, erasing, in this order."""

    image_size: int
    """Edge of the square given to the model, pixels."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Range of the crop's share of the image's area."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the crop's width over its height."""
    interpolation: Interpolation = "bicubic"
    """Filter of the resize, and of RandAugment's geometric operations."""
    flip_probability: float = 0.0
    """Of mirroring left and right."""
    rand_augment: str | None = None
    """timm's RandAugment text, such as rand-m9-mstd0.5-inc1; null for none."""
    erase_probability: float = 0.0
    """Of filling one random rectangle with noise."""
    backend: Backend = "fast"
    """Who carries this out: compiled code, or Pillow as in the original; few pixels differ, and those by little."""

    def _find_problems(self) -> Iterator[str]:
        if self.image_size < 1:
            yield f"image_size: must be at least 1 pixel, not {self.image_size}"
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            yield f"crop_scale: must be two shares of the area, 0 < low <= high <= 1, not {self.crop_scale}"
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            yield f"crop_ratio: must be two ratios, 0 < low <= high, not {self.crop_ratio}"
        for key in ("flip_probability", "erase_probability"):
            if not 0 <= getattr(self, key) <= 1:
                yield f"{key}: must be a probability from 0 to 1, not {getattr(self, key)}"
        if self.rand_augment is not None and not _RAND_AUGMENT.fullmatch(self.rand_augment):
            yield (
                f"rand_augment: {self.rand_augment!r} is not a RandAugment text of timm's; an example is "
                "rand-m9-mstd0.5-inc1"
            )


@dataclass(frozen=True, kw_only=True)
class MixingConfig(Settings):
    """What is done to a micro batch on the device."""

    mean: Channels = IMAGENET_MEAN
    """Subtracted, a channel (R, G, B), of values from 0 to 1."""
    std: Channels = IMAGENET_STD
    """What the difference is divided by, for red, green and blue in 0..1."""
    mixup_alpha: float = 0.0
    """Both parameters of mixup's Beta distribution; 0 for no mixup."""
    cutmix_alpha: float = 0.0
    """Both parameters of cutmix's Beta distribution; 0 for no cutmix."""
    probability: float = 1.0
    """Of mixing a micro batch at all."""
    switch_probability: float = 0.5
    """Of cutmix rather than mixup when both are on."""
    label_smoothing: float = 0.0
    """Share of each target that is spread evenly over all classes."""

    def _find_problems(self) -> Iterator[str]:
        if min(self.std) <= 0:
            yield f"std: must be over 0 in each channel, not {self.std}"
        for key in ("mixup_alpha", "cutmix_alpha"):
            if getattr(self, key) < 0:
                yield f"{key}: must be 0 or more, not {getattr(self, key)}"
        for key in ("probability", "switch_probability"):
            if not 0 <= getattr(self, key) <= 1:
                yield f"{key}: must be a probability from 0 to 1, not {getattr(self, key)}"
        if not 0 <= self.label_smoothing < 1:
            yield f"label_smoothing: must be at least 0 and under 1, not {self.label_smoothing}"


@dataclass(frozen=True, kw_only=True)
class TrainedSetConfig(Settings):
    """A split to train on, in the order of the run, and how it is read."""

    shards: Location = resumable()
    """Folder that holds the set's _info.json, or its URL (http(s)://, s3://, gs://, hf://); or a pattern of tars."""
    index: Path | None = resumable(None)
    """Folder for the index of tars that `shards` names by a pattern, and of samples with masks; null:
    ~/.cache/hornet/indexes."""
    split: str = "train"
    """Name of the set's split to train on."""
    shuffle_window_shards: int = 64
    """Shards whose samples are shuffled together, after the shards themselves; all of them give a full shuffle."""
    partial_batch: PartialBatch = "drop"
    """What becomes of an epoch's last samples that do not fill a global batch: drop them, or carry them over."""
    num_workers: int = resumable(0)
    """Processes that decode, for each rank; 0 decodes in the training process."""
    prefetch: int = resumable(2)
    """Micro batches that each worker prepares ahead."""
    max_bad_sample_rate: float = resumable(0.0)
    """Share of the samples that may be unusable (and replaced) before the run fails, 0 to 1."""
    remote: RemoteConfig = field(default_factory=RemoteConfig)
    """How tars at a URL are read."""

    def _find_problems(self) -> Iterator[str]:
        yield from _check_workers(self.num_workers, self.prefetch, self.max_bad_sample_rate)
        if self.shuffle_window_shards < 1:
            yield f"shuffle_window_shards: must be at least 1, not {self.shuffle_window_shards}"


@dataclass(frozen=True, kw_only=True)
class StreamConfig(TrainedSetConfig):
    """The training stream: a split's samples in the order of the run, augmented."""

    transform: TransformConfig
    """Crop, flip, RandAugment and size of each image."""


@dataclass(frozen=True, kw_only=True)
class EvaluatedSetConfig(Settings):
    """A split of which every sample is seen once, and how it is read."""

    shards: Location = resumable()
    """Folder that holds the set's _info.json, or its URL (http(s)://, s3://, gs://, hf://); or a pattern of tars."""
    index: Path | None = resumable(None)
    """Folder for the index of tars that `shards` names by a pattern, and of samples with masks; null:
    ~/.cache/hornet/indexes."""
    split: str = "validation"
    """Name of the set's split to evaluate on."""
    num_workers: int = resumable(0)
    """Processes that decode, for each rank; 0 decodes in the main process."""
    prefetch: int = resumable(2)
    """Batches that each worker prepares ahead."""
    max_bad_sample_rate: float = resumable(0.0)
    """Share of the samples that may be unusable (and left out) before the run fails, 0 to 1."""
    remote: RemoteConfig = field(default_factory=RemoteConfig)
    """How tars at a URL are read."""

    def _find_problems(self) -> Iterator[str]:
        yield from _check_workers(self.num_workers, self.prefetch, self.max_bad_sample_rate)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(EvaluatedSetConfig):
    """The evaluation stream: every sample once."""

    image_size: int
    """Edge of the square given to the model, pixels."""
    crop_fraction: float | None = 0.875
    """Edge of the centre crop over the resized short edge; null warps the whole image to the square instead."""
    interpolation: Interpolation = "bicubic"
    """Filter of the resize to the crop's size."""
    batch_size: int = resumable(64)
    """Images of one rank's batch."""
    per_image: bool = resumable(False)
    """Write loss and hit of each image of a training run's last evaluation to runs/NAME/per_image."""

    def _find_problems(self) -> Iterator[str]:
        yield from super()._find_problems()
        if self.image_size < 1:
            yield f"image_size: must be at least 1 pixel, not {self.image_size}"
        if self.batch_size < 1:
            yield f"batch_size: must be at least 1, not {self.batch_size}"
        if self.crop_fraction is not None and not 0 < self.crop_fraction <= 1:
            yield f"crop_fraction: must be over 0 and at most 1, or null, not {self.crop_fraction}"


def _check_workers(num_workers: int, prefetch: int, max_bad_sample_rate: float) -> Iterator[str]:
    if num_workers < 0:
        yield f"num_workers: must be 0 or more, not {num_workers}"
    if prefetch < 1:
        yield f"prefetch: must be at least 1, not {prefetch}"
    if not 0 <= max_bad_sample_rate <= 1:
        yield f"max_bad_sample_rate: must be from 0 to 1, not {max_bad_sample_rate}"

"""Encoded image to fixed-size uint8 pixels: the original recipe's transforms, seeded by key.

Two backends carry out the same draws (sampling.py): `pil`, timm's and torchvision's own functions on Pillow's images,
as the original has them, and `fast`, held to it. Not here: normalising, the noise in erased rectangles, mixup and
cutmix; those work on whole micro batches on the device (mixing.py).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import NAME_TO_OP
from timm.data.constants import IMAGENET_DEFAULT_MEAN
from torchvision.transforms import functional

from hornet.data.augment.jpeg import Pixels, decode_region
from hornet.data.augment.operations import BICUBIC_OPERATIONS, COLOUR_OPERATIONS, compile_all
from hornet.data.augment.sampling import NO_BOX, Augmentation, AugmentationSampler, Box, Operation, sample_erase_box
from hornet.data.config import Interpolation, TransformConfig
from hornet.seeding import derive_seed
from hornet.shards.decode import MAX_PIXELS, decode_image, open_image

FILL = tuple(min(255, round(255 * value)) for value in IMAGENET_DEFAULT_MEAN)
"""What RandAugment shows where it has moved an image away, as in the original."""

FILTER_RADIUS = 2
"""Of the bicubic filter in pixels, of the source or the result, whichever are larger; the bilinear one's is 1."""


class TrainTransform:
    """The training transform of one config."""

    def __init__(self, config: TransformConfig) -> None:
        self.config = config
        self._sample = _build_sampler(config)
        self._interpolation = functional.InterpolationMode(config.interpolation)
        if config.backend == "fast" and config.rand_augment is not None:
            compile_all()

    def __call__(self, content: bytes, *, key: tuple[int, int, int]) -> Pixels:
        """Return (H, W, 3) pixels of an encoded image; `key` is (seed, epoch, sample).

        Seeds the process's global generators, see AugmentationSampler. Raises UndecodableImageError.
        """
        if self.config.backend == "pil":
            return self._make_with_pillow(content, key)
        return self._make_fast(content, key)

    def sample_box(self, *, key: tuple[int, int, int]) -> Box:
        """Augmentation the rectangle to erase; height 0 for none."""
        if self.config.erase_probability == 0:
            return NO_BOX
        generator = random.Random(derive_seed("erase", *key))
        return sample_erase_box(generator, image_size=self.config.image_size, probability=self.config.erase_probability)

    def _make_with_pillow(self, content: bytes, key: tuple[int, int, int]) -> Pixels:
        image = decode_image(content)
        augmentation = self._sample(width=image.width, height=image.height, key=key)
        size = [self.config.image_size, self.config.image_size]
        image = functional.resized_crop(image, *augmentation.crop, size, self._interpolation)
        if augmentation.is_flipped:
            image = functional.hflip(image)
        for operation in augmentation.operations:
            image = self._apply_with_pillow(image, operation)
        return np.asarray(image)

    def _make_fast(self, content: bytes, key: tuple[int, int, int]) -> Pixels:
        image = open_image(content)
        augmentation: Augmentation = self._sample(width=image.width, height=image.height, key=key)
        pixels = resize(
            decode_region(content, image, augmentation.crop), self.config.image_size, self.config.interpolation
        )
        if augmentation.is_flipped:
            pixels = torch.from_numpy(pixels).flip(1).numpy()  # numpy's copy takes fifteen times as long
        for operation in augmentation.operations:
            pixels = self._apply_fast(pixels, operation)
        return pixels

    def _apply_fast(self, pixels: Pixels, operation: Operation) -> Pixels:
        if (recolour := COLOUR_OPERATIONS.get(operation.name)) is not None:
            return recolour(pixels, *operation.arguments)
        move = BICUBIC_OPERATIONS.get(operation.name)
        if move is not None and self.config.interpolation == "bicubic":
            return move(pixels, *operation.arguments, fill=FILL)
        return np.asarray(self._apply_with_pillow(Image.fromarray(pixels), operation))

    def _apply_with_pillow(self, image: Image.Image, operation: Operation) -> Image.Image:
        resample = Image.Resampling[self.config.interpolation.upper()]
        apply = cast(Callable[..., Image.Image], NAME_TO_OP[operation.name])
        return apply(image, *operation.arguments, fillcolor=FILL, resample=resample)


class EvaluationTransform:
    """The original's evaluation: short edge to size / crop_fraction, then the centre; or the whole image warped."""

    def __init__(self, *, image_size: int, crop_fraction: float | None, interpolation: Interpolation) -> None:
        self.image_size = image_size
        self.crop_fraction = crop_fraction
        self.interpolation = functional.InterpolationMode(interpolation)

    def __call__(self, content: bytes) -> Pixels:
        """Return (H, W, 3) pixels of an encoded image; raises UndecodableImageError."""
        image = decode_image(content)
        if self.crop_fraction is None:
            return np.asarray(self._warp(image))
        return np.asarray(self._crop_centre(image, short_edge=int(self.image_size / self.crop_fraction)))

    def _warp(self, image: Image.Image) -> Image.Image:
        size = [self.image_size, self.image_size]
        if self.image_size * image.height <= MAX_PIXELS:
            return cast(Image.Image, functional.resize(image, size, self.interpolation))
        # Pillow goes across first, over all rows: a column of a million pixels would take gigabytes.
        turned = image.transpose(Image.Transpose.TRANSPOSE)
        resized = cast(Image.Image, functional.resize(turned, size, self.interpolation))
        return resized.transpose(Image.Transpose.TRANSPOSE)

    def _crop_centre(self, image: Image.Image, *, short_edge: int) -> Image.Image:
        factor = short_edge / min(image.size)
        if factor**2 * image.width * image.height > MAX_PIXELS:
            return resize_centre(image, short_edge=short_edge, size=self.image_size, interpolation=self.interpolation)
        image = functional.resize(image, [short_edge], self.interpolation)
        return cast(Image.Image, functional.center_crop(image, [self.image_size, self.image_size]))


def resize_centre(
    image: Image.Image, *, short_edge: int, size: int, interpolation: functional.InterpolationMode
) -> Image.Image:
    """Return the centre, `size` x `size`, of what a resize of the short edge would make, without making all of it.

    The pixels are those of torchvision's resize and centre crop but for rounding: the filter's weights are computed
    from the region's own corner. For thin images, of which the whole would take gigabytes.
    """
    box, margins = [], []
    for edge in image.size:
        resized = int(short_edge * edge / min(image.size))
        scale = edge / resized
        start = round((resized - size) / 2) * scale
        stop = start + size * scale
        reach = math.ceil(FILTER_RADIUS * max(1.0, scale)) + 1  # source pixels that the filter sees beside the region
        margins.append((max(0, math.floor(start) - reach), min(edge, math.ceil(stop) + reach)))
        box.append((start - margins[-1][0], stop - margins[-1][0]))
    (left, right), (top, bottom) = margins
    near = image.crop((left, top, right, bottom))  # Pillow's box is of 32-bit floats: small numbers are exact enough
    resample = Image.Resampling[interpolation.value.upper()]
    return near.resize((size, size), resample, box=(box[0][0], box[1][0], box[0][1], box[1][1]))


def resize(pixels: Pixels, size: int, interpolation: Interpolation) -> Pixels:
    """Return (size, size, 3) pixels of (H, W, 3), filtered as Pillow does, in its fixed-point arithmetic."""
    image = torch.from_numpy(np.ascontiguousarray(pixels))[None].permute(0, 3, 1, 2)  # channels last, the quick way
    resized = torch.nn.functional.interpolate(image, (size, size), mode=interpolation, antialias=True)
    found: Pixels = resized[0].permute(1, 2, 0).contiguous().numpy()
    return found


def _build_sampler(config: TransformConfig) -> AugmentationSampler:
    return AugmentationSampler(
        image_size=config.image_size,
        crop_scale=config.crop_scale,
        crop_ratio=config.crop_ratio,
        flip_probability=config.flip_probability,
        rand_augment=config.rand_augment,
    )

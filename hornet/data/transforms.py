"""Picture to fixed-size uint8 pixels: the original recipe's transforms from timm's own parts, seeded by key.

The draws of a sample depend on its key (seed, epoch, sample) alone. Not here: normalising, the noise in erased
rectangles, mixup and cutmix; those work on whole micro batches on the device (mixing.py).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from timm.data.constants import IMAGENET_DEFAULT_MEAN
from timm.data.transforms import RandomResizedCropAndInterpolation, str_to_pil_interp
from torchvision import transforms
from torchvision.transforms import functional

from hornet.errors import UserError
from hornet.seeding import derive_seed

Interpolation = Literal["bicubic", "bilinear"]

# timm's RandomErasing as the original calls it: one rectangle of 1/50 to 1/3 of the area, aspect 0.3 to 1/0.3.
ERASE_AREA = (0.02, 1 / 3)
ERASE_LOG_ASPECT = (math.log(0.3), math.log(1 / 0.3))
NUM_ERASE_ATTEMPTS = 10

NO_BOX = (0, 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class TransformConfig:
    """Augmentation of training pictures: random resized crop, flip, RandAugment, erasing, in this order."""

    image_size: int
    """Edge of the square given to the model, pixels."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Range of the crop's share of the picture's area."""
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

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise UserError(f"image_size: must be at least 1 pixel, not {self.image_size}")
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise UserError(f"crop_scale: must be two shares of the area, 0 < low <= high <= 1, not {self.crop_scale}")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise UserError(f"crop_ratio: must be two ratios, 0 < low <= high, not {self.crop_ratio}")
        for key in ("flip_probability", "erase_probability"):
            if not 0 <= getattr(self, key) <= 1:
                raise UserError(f"{key}: must be a probability from 0 to 1, not {getattr(self, key)}")
        if self.rand_augment is not None:
            _build_rand_augment(self)


class TrainTransform:
    """The training transform of one config."""

    def __init__(self, config: TransformConfig) -> None:
        parts: list[Any] = [
            RandomResizedCropAndInterpolation(  # type: ignore[no-untyped-call]
                config.image_size,
                scale=config.crop_scale,
                ratio=config.crop_ratio,
                interpolation=config.interpolation,
            )
        ]
        if config.flip_probability > 0:
            parts.append(transforms.RandomHorizontalFlip(config.flip_probability))
        if config.rand_augment is not None:
            parts.append(_build_rand_augment(config))
        self._parts = parts
        self.config = config

    def __call__(self, image: Image.Image, *, key: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
        """Return (H, W, 3) pixels of an RGB picture; `key` is (seed, epoch, sample).

        Seeds the process's global generators, as timm's parts draw from them: wrap calls outside of workers in
        `unchanged_randomness`.
        """
        seed_globally(derive_seed("augment", *key))
        for part in self._parts:
            image = part(image)
        return np.asarray(image)

    def draw_box(self, *, key: tuple[int, int, int]) -> tuple[int, int, int, int]:
        """Draw the rectangle to erase: top, left, height, width in pixels; height 0 for none."""
        if self.config.erase_probability == 0:
            return NO_BOX
        generator = random.Random(derive_seed("erase", *key))
        return draw_erase_box(generator, image_size=self.config.image_size, probability=self.config.erase_probability)


class EvaluationTransform:
    """The original's evaluation: short edge to size / crop_fraction, then the centre; or the whole picture warped."""

    def __init__(self, *, image_size: int, crop_fraction: float | None, interpolation: Interpolation) -> None:
        self.image_size = image_size
        self.crop_fraction = crop_fraction
        self.interpolation = functional.InterpolationMode(interpolation)

    def __call__(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Return (H, W, 3) pixels of an RGB picture."""
        size = self.image_size
        if self.crop_fraction is None:
            return np.asarray(functional.resize(image, [size, size], self.interpolation))
        image = functional.resize(image, [int(size / self.crop_fraction)], self.interpolation)
        return np.asarray(functional.center_crop(image, [size, size]))


def draw_erase_box(generator: random.Random, *, image_size: int, probability: float) -> tuple[int, int, int, int]:
    """Draw as timm's RandomErasing does, draw for draw, and return top, left, height, width."""
    if generator.random() > probability:
        return NO_BOX
    for _ in range(NUM_ERASE_ATTEMPTS):
        area = generator.uniform(*ERASE_AREA) * image_size**2
        aspect = math.exp(generator.uniform(*ERASE_LOG_ASPECT))
        height = round(math.sqrt(area * aspect))
        width = round(math.sqrt(area / aspect))
        if height < image_size and width < image_size:
            top = generator.randint(0, image_size - height)
            left = generator.randint(0, image_size - width)
            return top, left, height, width
    return NO_BOX


def seed_globally(seed: int) -> None:
    """Seed the generators that timm and torchvision draw from: random, numpy's legacy one, torch's default one."""
    random.seed(seed)
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32])
    torch.default_generator.manual_seed(seed)  # not torch.manual_seed: 87 us against 1, and it touches the devices


@contextmanager
def unchanged_randomness() -> Iterator[None]:
    """Leave the global generators as they were on entry."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])


def _build_rand_augment(config: TransformConfig) -> Any:
    """Build timm's RandAugment as the original does: ImageNet's mean as fill, shifts up to 45 % of the edge."""
    text = config.rand_augment
    assert text is not None
    parameters = {
        "translate_const": int(config.image_size * 0.45),
        "img_mean": tuple(min(255, round(255 * value)) for value in IMAGENET_DEFAULT_MEAN),
        "interpolation": str_to_pil_interp(config.interpolation),  # type: ignore[no-untyped-call]
    }
    try:
        return rand_augment_transform(text, parameters)
    except (AssertionError, ValueError, KeyError, IndexError) as error:
        raise UserError(
            f"rand_augment: {text!r} is not a RandAugment text of timm's; an example is rand-m9-mstd0.5-inc1"
        ) from error

"""What is to be done to an image, drawn by timm's and torchvision's own parts; nothing here touches a pixel.

The draws of a sample depend on its key (seed, epoch, sample), on the image's size and on the settings: not on who
carries them out.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from timm.data.auto_augment import rand_augment_transform
from timm.data.transforms import RandomResizedCropAndInterpolation

from hornet.errors import UserError
from hornet.seeding import derive_seed

Box = tuple[int, int, int, int]
"""top, left, height, width in pixels."""

# timm's RandomErasing as the original calls it: one rectangle of 1/50 to 1/3 of the area, aspect 0.3 to 1/0.3.
ERASE_AREA = (0.02, 1 / 3)
ERASE_LOG_ASPECT = (math.log(0.3), math.log(1 / 0.3))
NUM_ERASE_ATTEMPTS = 10

NO_BOX: Box = (0, 0, 0, 0)

MAX_TRANSLATION = 0.45
"""Of the edge: how far RandAugment shifts at most, as in the original."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One of RandAugment's operations, with what was sampled for it."""

    name: str
    """timm's name of the operation."""
    arguments: tuple[float, ...]
    """What timm's function of that name takes behind the image."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is done to one image, in this order."""

    crop: Box
    is_flipped: bool
    operations: tuple[Operation, ...]


class AugmentationSampler:
    """The draws of one training transform."""

    def __init__(
        self,
        *,
        image_size: int,
        crop_scale: tuple[float, float],
        crop_ratio: tuple[float, float],
        flip_probability: float,
        rand_augment: str | None,
    ) -> None:
        self._crop_scale = crop_scale
        self._crop_ratio = crop_ratio
        self._flip_probability = flip_probability
        self._rand_augment = None if rand_augment is None else _build_rand_augment(rand_augment, image_size)

    def __call__(self, *, width: int, height: int, key: tuple[int, int, int]) -> Augmentation:
        """Draw for an image of `width` x `height`; `key` is (seed, epoch, sample).

        Seeds the process's global generators, as timm's parts draw from them: wrap calls outside of workers in
        `unchanged_randomness`.
        """
        seed_globally(derive_seed("augment", *key))
        image = torch.empty(3, height, width, device="meta")
        found = RandomResizedCropAndInterpolation.get_params(image, self._crop_scale, self._crop_ratio)  # type: ignore[no-untyped-call]
        crop = _keep_a_pixel(found, width=width, height=height)
        is_flipped = self._flip_probability > 0 and bool(torch.rand(1) < self._flip_probability)
        operations: list[Operation] = []
        if self._rand_augment is not None:
            self._rand_augment(operations)
        return Augmentation(crop=crop, is_flipped=is_flipped, operations=tuple(operations))


def _keep_a_pixel(crop: Box, *, width: int, height: int) -> Box:
    """Widen a crop that timm has rounded to nothing, as of an image of one to three pixels, to one pixel within it."""
    top, left, crop_height, crop_width = crop
    return min(top, height - 1), min(left, width - 1), max(1, crop_height), max(1, crop_width)


def _build_rand_augment(text: str, image_size: int) -> Any:
    """Build timm's RandAugment so that it appends what it would do to the list it is called with."""
    parameters = {"translate_const": int(image_size * MAX_TRANSLATION)}
    try:
        rand_augment = rand_augment_transform(text, parameters)
    except (AssertionError, ValueError, KeyError, IndexError) as error:
        raise UserError(
            f"rand_augment: {text!r} is not a RandAugment text of timm's; an example is rand-m9-mstd0.5-inc1"
        ) from error
    for operation in rand_augment.ops:
        operation.aug_fn = partial(_append, operation.name)
    return rand_augment


def _append(name: str, operations: list[Operation], *arguments: float, **_: Any) -> list[Operation]:
    operations.append(Operation(name=name, arguments=arguments))
    return operations


def sample_erase_box(generator: random.Random, *, image_size: int, probability: float) -> Box:
    """Draw as timm's RandomErasing does, draw for draw."""
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

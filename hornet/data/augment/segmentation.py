"""Image and mask together: random scale, random crop, flip and photometric distortion, drawn for each sample by key.

Source: the train pipeline of the original's semantic_segmentation/configs (raoyongming/HorNet at ac9e210), whose parts
are mmsegmentation's. The draws differ from theirs, and so do three things that a learner hardly sees: images are made
smaller with a filter that spans all pixels (Pillow's, OpenCV's takes four of them), the hue has 256 steps for their
180, and an image smaller than the crop is filled up at the right and below with the mean colour.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from hornet.data.config import IMAGENET_MEAN
from hornet.data.segmentation_config import SegmentationTransformConfig
from hornet.seeding import derive_seed
from hornet.shards.decode import UndecodableImageError, decode_image
from hornet.shards.mask import IGNORED, ClassMap, decode_mask

Pixels = npt.NDArray[np.uint8]
Key = tuple[int, int, int]
"""Seed, epoch, sample."""

FILL = np.array([round(255 * value) for value in IMAGENET_MEAN], np.uint8)
NUM_CROPS = 10
"""Crops that are drawn until none of the classes has too much of it; the last one is taken as it is."""
BRIGHTNESS = 32.0
CONTRAST = SATURATION = (0.5, 1.5)
HUE_DEGREES = 36.0


class SegmentationTransform:
    """The training transform of one config, for a set of so many classes."""

    def __init__(self, config: SegmentationTransformConfig, *, num_classes: int) -> None:
        self.config = config
        self._num_classes = num_classes

    def __call__(self, image: bytes, mask: bytes, *, key: Key) -> tuple[Pixels, ClassMap]:
        """Return (crop, crop, 3) pixels and (crop, crop) classes; raises UndecodableImageError."""
        config, draw = self.config, random.Random(derive_seed("segment", *key))
        pixels, classes = decode_pair(image, mask, num_classes=self._num_classes)
        factor = draw.uniform(*config.scale_factors)
        width, height = fit_size(pixels.shape[1], pixels.shape[0], scale=config.scale, factor=factor)
        pixels, classes = resize_pair(pixels, classes, width=width, height=height)
        top, left = draw_crop(classes, config, draw)
        window = np.s_[top : top + config.crop_size, left : left + config.crop_size]
        pixels, classes = pixels[window], classes[window]
        if draw.random() < config.flip_probability:
            pixels, classes = pixels[:, ::-1], classes[:, ::-1]
        if config.photometric_distortion:
            pixels = distort(pixels, draw)
        return _fill_up(pixels, classes, config.crop_size)


def decode_pair(image: bytes, mask: bytes, *, num_classes: int) -> tuple[Pixels, ClassMap]:
    """Return (H, W, 3) pixels and (H, W) classes of encoded bytes; raises UndecodableImageError if they do not fit."""
    pixels, classes = np.asarray(decode_image(image)), decode_mask(mask)
    if pixels.shape[:2] != classes.shape:
        raise UndecodableImageError(
            f"the mask has {classes.shape[1]} x {classes.shape[0]} pixels, the image {pixels.shape[1]} x "
            f"{pixels.shape[0]}"
        )
    if (largest := int(classes.max())) >= num_classes:
        raise UndecodableImageError(
            f"its mask holds class {largest}; the set's {num_classes} classes are 0 to {num_classes - 1}, and 255 or "
            "65535 none"
        )
    return pixels, classes


def fit_size(width: int, height: int, *, scale: Sequence[int], factor: float) -> tuple[int, int]:
    """Return width and height of an image that fits into `factor` x (longer, shorter edge) and keeps its shape."""
    longer, shorter = (int(edge * factor) for edge in scale)
    ratio = min(longer / max(width, height), shorter / min(width, height))
    return max(1, int(width * ratio + 0.5)), max(1, int(height * ratio + 0.5))


def resize_pair(pixels: Pixels, classes: ClassMap, *, width: int, height: int) -> tuple[Pixels, ClassMap]:
    """Resize the image bilinearly and the mask to the nearest pixel: classes are no colours."""
    if (height, width) == classes.shape:
        return pixels, classes
    resized = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    # Nearest at the middle of each new pixel, by index: Pillow has no signed 16-bit images.
    rows = ((np.arange(height) + 0.5) * classes.shape[0] / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * classes.shape[1] / width).astype(np.int64)
    return resized, classes[rows[:, None], columns]


def draw_crop(classes: ClassMap, config: SegmentationTransformConfig, draw: random.Random) -> tuple[int, int]:
    """Return top and left of a crop in which no class has too large a share of the pixels that have one."""
    height, width = classes.shape
    top = left = 0
    for _ in range(NUM_CROPS):
        top = draw.randint(0, max(0, height - config.crop_size))
        left = draw.randint(0, max(0, width - config.crop_size))
        if config.max_class_share == 1:
            break
        crop = classes[top : top + config.crop_size, left : left + config.crop_size]
        counts = np.bincount(crop[crop != IGNORED])
        if np.count_nonzero(counts) > 1 and counts.max() < config.max_class_share * counts.sum():
            break
    return top, left


def distort(pixels: Pixels, draw: random.Random) -> Pixels:
    """Change brightness, contrast, saturation and hue, each with probability 1/2, contrast before or after the colours.

    Rounded and cut to 0..255 after each.
    """
    contrast_first = draw.random() < 0.5
    if draw.random() < 0.5:
        pixels = _to_levels(pixels.astype(np.float32) + draw.uniform(-BRIGHTNESS, BRIGHTNESS))
    contrast = draw.uniform(*CONTRAST) if draw.random() < 0.5 else None
    if contrast_first and contrast is not None:
        pixels = _to_levels(pixels * np.float32(contrast))
    saturation = draw.uniform(*SATURATION) if draw.random() < 0.5 else None
    hue = draw.uniform(-HUE_DEGREES, HUE_DEGREES) if draw.random() < 0.5 else None
    if saturation is not None or hue is not None:
        hsv = np.array(Image.fromarray(np.ascontiguousarray(pixels)).convert("HSV"))
        if saturation is not None:
            hsv[..., 1] = _to_levels(hsv[..., 1] * np.float32(saturation))
        if hue is not None:
            hsv[..., 0] = (hsv[..., 0].astype(np.int32) + round(hue * 256 / 360)) % 256
        channels = [Image.fromarray(np.ascontiguousarray(hsv[..., channel])) for channel in range(3)]
        pixels = np.asarray(Image.merge("HSV", channels).convert("RGB"))
    if not contrast_first and contrast is not None:
        pixels = _to_levels(pixels * np.float32(contrast))
    return pixels


def _to_levels(values: npt.NDArray[np.float32]) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _fill_up(pixels: Pixels, classes: ClassMap, size: int) -> tuple[Pixels, ClassMap]:
    height, width = classes.shape
    if (height, width) == (size, size):
        return pixels, classes
    image, mask = np.tile(FILL, (size, size, 1)), np.full((size, size), IGNORED, np.int16)
    image[:height, :width], mask[:height, :width] = pixels, classes
    return image, mask

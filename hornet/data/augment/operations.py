"""RandAugment's operations on (H, W, 3) uint8 pixels: Pillow's arithmetic, compiled.

Each takes and returns pixels and does what timm's function of the same name does with an image. Look-up tables are
Pillow's to the bit. Geometric operations are Pillow's bicubic filter in float32 instead of double, and of a shear or a
shift only the direction in which something moves is filtered: one level in a few thousand is off by one.

Compiled by numba at the first call, and kept on disk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from hornet.data.augment.pixel_loops import (
    blend_with_grey,
    blend_with_smooth,
    count_levels,
    look_up,
    shift_lines,
    sum_grey,
    turn,
)

Pixels = npt.NDArray[np.uint8]
Tables = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

LEVELS = np.arange(256)


def auto_contrast(pixels: Pixels) -> Pixels:
    """Stretch each channel to 0 and 255."""
    counts = count_levels(pixels)
    tables = np.empty((3, 256), np.uint8)
    for channel in range(3):
        present = counts[channel].nonzero()[0]
        low, high = int(present[0]), int(present[-1])
        scale = 255.0 / (high - low) if high > low else 1.0
        offset = -low * scale if high > low else 0.0
        tables[channel] = np.clip(np.trunc(LEVELS * scale + offset), 0, 255)
    return look_up(pixels, tables)


def equalize(pixels: Pixels) -> Pixels:
    """Spread each channel's levels so that they are about equally frequent."""
    counts = count_levels(pixels)
    tables = np.empty((3, 256), np.uint8)
    for channel, count in enumerate(counts):
        present = count[count > 0]
        step = int(present[:-1].sum()) // 255
        before = step // 2 + np.concatenate([[0], np.cumsum(count[:-1])])
        tables[channel] = np.minimum(before // step, 255) if step else LEVELS
    return look_up(pixels, tables)


def invert(pixels: Pixels) -> Pixels:
    """Turn v into 255 - v."""
    found: Pixels = 255 - pixels
    return found


def posterize(pixels: Pixels, num_bits: int) -> Pixels:
    """Keep the upper bits of each level; none of them: black."""
    found: Pixels = pixels & np.uint8(0x100 - (1 << (8 - num_bits)) if num_bits < 8 else 0xFF)
    return found


def solarize(pixels: Pixels, threshold: int) -> Pixels:
    """Invert levels from `threshold` on."""
    return look_up(pixels, _for_all(np.where(threshold > LEVELS, LEVELS, 255 - LEVELS)))


def solarize_add(pixels: Pixels, added: int, threshold: int = 128) -> Pixels:
    """Add to levels below `threshold`."""
    return look_up(pixels, _for_all(np.where(threshold > LEVELS, np.minimum(255, LEVELS + added), LEVELS)))


def brightness(pixels: Pixels, factor: float) -> Pixels:
    """Blend with black."""
    return look_up(pixels, _for_all(_blend_levels(0, factor)))


def contrast(pixels: Pixels, factor: float) -> Pixels:
    """Blend with the image's mean grey."""
    mean = int(sum_grey(pixels) / (pixels.shape[0] * pixels.shape[1]) + 0.5)
    return look_up(pixels, _for_all(_blend_levels(mean, factor)))


def color(pixels: Pixels, factor: float) -> Pixels:
    """Blend with the grey image."""
    return blend_with_grey(pixels, np.float32(factor))


def sharpness(pixels: Pixels, factor: float) -> Pixels:
    """Blend with the smoothed image."""
    return blend_with_smooth(pixels, np.float32(factor))


def shear_x(pixels: Pixels, factor: float, *, fill: Colour) -> Pixels:
    """Take each row from where it was moved by `factor` a row."""
    return _shift(pixels, factor, 0.0, fill=fill, is_vertical=False)


def shear_y(pixels: Pixels, factor: float, *, fill: Colour) -> Pixels:
    """Take each column from where it was moved by `factor` a column."""
    return _shift(pixels, factor, 0.0, fill=fill, is_vertical=True)


def translate_x(pixels: Pixels, share: float, *, fill: Colour) -> Pixels:
    """Shift by a share of the width."""
    return _shift(pixels, 0.0, share * pixels.shape[1], fill=fill, is_vertical=False)


def translate_y(pixels: Pixels, share: float, *, fill: Colour) -> Pixels:
    """Shift by a share of the height."""
    return _shift(pixels, 0.0, share * pixels.shape[0], fill=fill, is_vertical=True)


def rotate(pixels: Pixels, degrees: float, *, fill: Colour) -> Pixels:
    """Turn counter-clockwise round the centre."""
    if degrees % 360 == 0:
        return pixels
    height, width = pixels.shape[:2]
    angle = -math.radians(degrees % 360)
    cosine, sine = round(math.cos(angle), 15), round(math.sin(angle), 15)
    shift_x = width / 2 - cosine * width / 2 - sine * height / 2
    shift_y = height / 2 + sine * width / 2 - cosine * height / 2
    return turn(pixels, cosine, sine, shift_x, shift_y, np.array(fill, np.uint8))


COLOUR_OPERATIONS: dict[str, Callable[..., Pixels]] = {
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
    "Invert": invert,
    "Posterize": posterize,
    "PosterizeIncreasing": posterize,
    "Solarize": solarize,
    "SolarizeIncreasing": solarize,
    "SolarizeAdd": solarize_add,
    "Color": color,
    "ColorIncreasing": color,
    "Contrast": contrast,
    "ContrastIncreasing": contrast,
    "Brightness": brightness,
    "BrightnessIncreasing": brightness,
    "Sharpness": sharpness,
    "SharpnessIncreasing": sharpness,
}
"""By timm's names."""

BICUBIC_OPERATIONS: dict[str, Callable[..., Pixels]] = {
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateXRel": translate_x,
    "TranslateYRel": translate_y,
    "Rotate": rotate,
}
"""Those that move pixels, and take `fill` for what comes from outside."""


def compile_all() -> None:
    """Compile every operation: before processes are forked, so that they need not."""
    pixels = np.zeros((4, 4, 3), np.uint8)
    arguments: dict[str, tuple[float, ...]] = dict.fromkeys(["AutoContrast", "Equalize", "Invert"], ())
    for name, operation in COLOUR_OPERATIONS.items():
        operation(pixels, *arguments.get(name, (1,)))
    for operation in BICUBIC_OPERATIONS.values():
        operation(pixels, 0.25, fill=(0, 0, 0))


def _shift(pixels: Pixels, slope: float, shift: float, *, fill: Colour, is_vertical: bool) -> Pixels:
    found = np.empty_like(pixels)
    views = (pixels.swapaxes(0, 1), found.swapaxes(0, 1)) if is_vertical else (pixels, found)
    shift_lines(*views, slope, shift, np.array(fill, np.uint8))
    return found


def _for_all(table: npt.NDArray[Any]) -> Tables:
    return np.broadcast_to(table.astype(np.uint8), (3, 256))


def _blend_levels(grey: int, factor: float) -> npt.NDArray[np.float32]:
    """Return what Image.blend makes of each level and `grey`."""
    start, alpha = np.float32(grey), np.float32(factor)
    found: npt.NDArray[np.float32] = np.clip(start + alpha * (LEVELS.astype(np.float32) - start), 0, 255)
    return found

"""What is done to an image by itself: light, contrast, colour, shape, resolution, compression."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from scipy import ndimage

from hornet.data.corruptions.noise import Levels, Random


def brighten(image: Levels, severity: int, random: Random) -> Levels:
    """Raise the value of HSV; hue and saturation stay."""
    value = image.max(axis=2, keepdims=True)
    raised = np.minimum(value + (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1], 1)
    found: Levels = np.where(value > 0, image * raised / np.where(value > 0, value, 1), raised)
    return found


def reduce_contrast(image: Levels, severity: int, random: Random) -> Levels:
    """Bring each channel's levels nearer to their mean."""
    means = image.mean(axis=(0, 1), keepdims=True)
    found: Levels = (image - means) * (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1] + means
    return found


def saturate(image: Levels, severity: int, random: Random) -> Levels:
    """Change the saturation of HSV; hue and value stay. Grey has the hue of red."""
    factor, added = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))[severity - 1]
    value = image.max(axis=2, keepdims=True)
    span = value - image.min(axis=2, keepdims=True)
    saturation = span / np.where(value > 0, value, 1)
    is_grey = span == 0
    depth = np.where(is_grey, (0, 1, 1), (value - image) / np.where(is_grey, 1, span))  # 0 to 1 below the value
    found: Levels = value * (1 - np.clip(saturation * factor + added, 0, 1) * depth)
    return found


def transform_elastically(image: Levels, severity: int, random: Random) -> Levels:
    """Move three points and with them the image, then each pixel by a smooth field; lengths are shares of the edge."""
    strength, sigma, jitter = (
        (2, 0.7, 0.1),
        (2, 0.08, 0.2),
        (0.05, 0.01, 0.02),
        (0.07, 0.01, 0.02),
        (0.12, 0.01, 0.02),
    )[severity - 1]
    height, width = image.shape[:2]
    unit = 244 / 224 * min(height, width)  # the published program has 244 for 224
    moved = _move_points(image, random.uniform(-jitter * unit, jitter * unit, size=(3, 2)))
    right, down = (
        strength * unit * ndimage.gaussian_filter(field, sigma * unit, mode="reflect", truncate=3)
        for field in random.uniform(-1, 1, size=(2, height, width))
    )
    places = np.stack([np.arange(height)[:, None] + down, np.arange(width) + right])
    channels = [ndimage.map_coordinates(moved[..., c], places, order=1, mode="reflect") for c in range(3)]
    return np.stack(channels, axis=2)


def _move_points(image: Levels, shifts: Levels) -> Levels:
    """Move three corners of a square in the middle by `shifts` (3, 2), right and down, and the image with them."""
    middle = np.array(image.shape[1::-1]) // 2
    reach = min(image.shape[:2]) // 3
    points = middle + reach * np.array([[1, 1], [1, -1], [-1, -1]])
    solved = np.linalg.solve(np.column_stack([points + shifts, np.ones(3)]), points)  # from where a pixel comes
    matrix, offset = solved[:2].T[::-1, ::-1], solved[2][::-1]  # in rows and columns
    channels = [ndimage.affine_transform(image[..., c], matrix, offset, order=1, mode="mirror") for c in range(3)]
    return np.stack(channels, axis=2)


def pixelate(image: Levels, severity: int, random: Random) -> Levels:
    """Average blocks."""
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[severity - 1]
    whole = _to_image(image)
    small = whole.resize((int(whole.width * share), int(whole.height * share)), Image.Resampling.BOX)
    return np.asarray(small.resize(whole.size, Image.Resampling.BOX)) / 255


def compress(image: Levels, severity: int, random: Random) -> Levels:
    """Store as a JPEG of low quality."""
    file = io.BytesIO()
    _to_image(image).save(file, "JPEG", quality=(25, 18, 15, 10, 7)[severity - 1])
    return np.asarray(Image.open(file)) / 255


def _to_image(image: Levels) -> Image.Image:
    return Image.fromarray(np.round(image * 255).astype(np.uint8))

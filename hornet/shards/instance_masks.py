"""COCO's outlines and runs to masks, pixel for pixel as its own code makes them, and masks to runs.

A mask's pixels are counted down the columns, left to right. Runs are the lengths of 0s and 1s in turn, as a list or
packed into text: 5 bits a character from `0` on, with a bit for `goes on`, from the third run on as the difference to
the run before the last. A polygon is filled on a raster five times as fine; where its outline crosses the middle of a
column, the pixels below change sides.
Source: the format of cocodataset/cocoapi (common/maskApi.c), which tests compare with.

All of it is from untrusted files: nothing is made larger than the image, whose size the caller has checked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.uint8]
"""(H, W): 1 where the object is."""

FINE = 5
"""Points of the fine raster a pixel."""
MAX_OUTLINE_PIXELS = 1 << 18
"""Length of a polygon's outline, in pixels, its sides by their longer component: far more than any object has."""


@dataclass(frozen=True, slots=True)
class Polygons:
    """Outlines that cover an object together."""

    outlines: tuple[npt.NDArray[np.float64], ...]
    """(n, 2) each: x and y of at least three corners, pixels."""


@dataclass(frozen=True, slots=True)
class Runs:
    """Lengths of 0s and 1s in turn."""

    counts: npt.NDArray[np.int64]
    """Their sum is the number of pixels of the image."""


Segmentation = Polygons | Runs


def read_segmentation(value: Any, *, height: int, width: int) -> Segmentation:
    """Return what COCO's `segmentation` holds for an image of this size.

    Raises ValueError, with what is wrong in words that go on from `segmentation`.
    """
    if isinstance(value, Mapping):
        return _read_runs(value, height=height, width=width)
    if not isinstance(value, list) or not value:
        raise ValueError("is neither polygons nor runs (RLE); a mask is needed for each object")
    read = (_read_outline(one, height=height, width=width) for one in value)
    outlines = tuple(outline for outline in read if len(outline) >= 3)  # a point or a line has no inside
    if sum(map(_measure, outlines)) > MAX_OUTLINE_PIXELS:
        raise ValueError(f"has outlines of more than {MAX_OUTLINE_PIXELS} pixels together")
    return Polygons(outlines)


def make_mask(segmentation: Segmentation, *, height: int, width: int) -> Mask:
    """Return the mask (H, W) of an object of an image of the size that the segmentation was read for."""
    if isinstance(segmentation, Runs):
        values = (np.arange(len(segmentation.counts)) % 2).astype(np.uint8)
        return np.repeat(values, segmentation.counts).reshape(width, height).T
    mask = np.zeros((width, height), np.uint8)
    for outline in segmentation.outlines:
        mask |= _fill(outline, height=height, width=width)
    return mask.T


def encode_runs(mask: Mask) -> dict[str, Any]:
    """Return a mask as COCO's RLE with its runs in a list; Python's own numbers, for JSON."""
    flat = (np.asarray(mask) != 0).T.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    ends = np.concatenate([[0] if flat[0] else np.empty(0, np.int64), changes, [len(flat)]])
    return {"size": list(mask.shape), "counts": np.diff(ends, prepend=0).astype(np.int64).tolist()}


def _read_runs(value: Mapping[str, Any], *, height: int, width: int) -> Runs:
    if value.get("size") != [height, width]:
        raise ValueError(
            f"is of size {str(value.get('size'))[:60]}, the image of [{height}, {width}] (height, width); they must be "
            "the same"
        )
    num_pixels = height * width
    counts = value.get("counts")
    if isinstance(counts, str):
        counts = _unpack(counts, limit=num_pixels)
    if not isinstance(counts, list) or any(type(count) is not int or not 0 <= count <= num_pixels for count in counts):
        raise ValueError(f"has runs that are not whole numbers from 0 to {num_pixels}, the pixels of the image")
    if sum(counts) != num_pixels:
        raise ValueError(f"has runs of {sum(counts)} pixels together, the image has {num_pixels}")
    return Runs(np.array(counts, np.int64))


def _unpack(text: str, *, limit: int) -> list[int]:
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - ord("0")
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("has runs in text that is not COCO's")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        if not 0 <= counts[-1] <= limit:
            break  # which the caller refuses; what follows counts from it
        value = shift = 0
    else:
        if shift:
            raise ValueError("has runs in text that ends within one")
    return counts


def _read_outline(value: Any, *, height: int, width: int) -> npt.NDArray[np.float64]:
    if not isinstance(value, list) or not value or len(value) % 2:
        raise ValueError("has a polygon that is no list x, y, x, y, ...")
    for number in value:
        if type(number) not in (int, float) or not math.isfinite(number):
            raise ValueError(f"has a polygon with {str(number)[:40]!r} in place of a coordinate")
    reach = max(height, width)
    if min(value) < -reach or max(value) > 2 * reach:
        raise ValueError("has a polygon that reaches far outside of the image")
    return np.array(value, np.float64).reshape(-1, 2)


def _measure(outline: npt.NDArray[np.float64]) -> float:
    return float(np.abs(outline - np.roll(outline, 1, axis=0)).max(axis=1).sum())


def _fill(outline: npt.NDArray[np.float64], *, height: int, width: int) -> Mask:
    """Return the inside of an outline, (W, H)."""
    corners = np.trunc(FINE * outline + 0.5).astype(np.int64)
    x, y = _trace(np.concatenate([corners, corners[:1]]))
    steps = x[1:] != x[:-1]
    column = (np.where(x[1:] < x[:-1], x[1:], x[1:] - 1)[steps] + 0.5) / FINE - 0.5
    row = np.ceil(np.clip((np.minimum(y[1:], y[:-1])[steps] + 0.5) / FINE - 0.5, 0, height))
    is_middle = (column == np.floor(column)) & (column >= 0) & (column <= width - 1)
    crossings = column[is_middle].astype(np.int64) * height + row[is_middle].astype(np.int64)
    mask = np.zeros(height * width, np.uint8)
    if len(crossings):  # an even number: before the first and after the last is outside
        first = int(crossings.min())
        window = mask[first : int(crossings.max()) + 1]
        np.cumsum(np.bincount(crossings - first)[: len(window)], out=window, dtype=np.uint8)
        window &= 1
    return mask.reshape(width, height)


def _trace(corners: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return x and y of all points of the fine raster along an outline, side by side."""
    sides = [_trace_side(start, end) for start, end in pairwise(corners.tolist())]
    return np.concatenate([x for x, _ in sides]), np.concatenate([y for _, y in sides])


def _trace_side(start: Sequence[int], end: Sequence[int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the points from corner to corner, computed from the left or upper one, so that both ways round agree."""
    is_flat = abs(end[0] - start[0]) >= abs(end[1] - start[1])
    along, across = (0, 1) if is_flat else (1, 0)
    first, last = (end, start) if start[along] > end[along] else (start, end)
    distance = np.arange(last[along] - first[along] + 1)
    slope = (last[across] - first[across]) / (last[along] - first[along]) if len(distance) > 1 else 0.0
    points = first[along] + distance, np.trunc(first[across] + slope * distance + 0.5).astype(np.int64)
    x, y = points if is_flat else points[::-1]
    return (x[::-1], y[::-1]) if first is end else (x, y)

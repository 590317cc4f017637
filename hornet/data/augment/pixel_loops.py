"""Loops over pixels, compiled by numba at their first call and kept on disk; see operations.py for what they are for.

Written for the compiler: arithmetic in float32 over few arrays at a time; branches and gathers in loops of their own.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from numba import njit

Pixels = npt.NDArray[np.uint8]
Function = TypeVar("Function", bound=Callable[..., Any])

GREY = (19595, 38470, 7471)
"""Of 65536: Pillow's weights of red, green and blue in mode L (ITU-R 601-2)."""
SMOOTH_EXTRA, SMOOTH_SUM = np.float32(4), np.float32(13)
"""Pillow's filter SMOOTH: each of nine pixels once, the middle four times more."""


def _compile(function: Function) -> Function:
    compiled: Function = njit(cache=True, nogil=True)(function)
    return compiled


@_compile
def _to_level(value):
    return np.uint8(min(max(value, np.float32(0)), np.float32(255)))


@_compile
def count_levels(pixels: Pixels) -> npt.NDArray[np.int64]:
    """Return (3, 256): how often each level occurs in each channel."""
    counts = np.zeros((3, 256), np.int64)
    height, width, _ = pixels.shape
    for y in range(height):
        for x in range(width):
            for channel in range(3):
                counts[channel, pixels[y, x, channel]] += 1
    return counts


@_compile
def look_up(pixels: Pixels, tables: Pixels) -> Pixels:
    """Replace each level by that of its channel's table."""
    found = np.empty_like(pixels)
    height, width, _ = pixels.shape
    for y in range(height):
        for x in range(width):
            for channel in range(3):
                found[y, x, channel] = tables[channel, pixels[y, x, channel]]
    return found


@_compile
def _grey(pixel):
    return (GREY[0] * pixel[0] + GREY[1] * pixel[1] + GREY[2] * pixel[2] + 0x8000) >> 16


@_compile
def sum_grey(pixels: Pixels) -> int:
    """Add up the levels of the grey image."""
    total = 0
    height, width, _ = pixels.shape
    for y in range(height):
        for x in range(width):
            total += _grey(pixels[y, x])
    return total


@_compile
def blend_with_grey(pixels: Pixels, factor: np.float32) -> Pixels:
    """Return grey + factor * (pixels - grey)."""
    found = np.empty_like(pixels)
    height, width, _ = pixels.shape
    for y in range(height):
        for x in range(width):
            grey = np.float32(_grey(pixels[y, x]))
            for channel in range(3):
                value = grey + factor * (np.float32(pixels[y, x, channel]) - grey)
                found[y, x, channel] = _to_level(value)
    return found


@_compile
def blend_with_smooth(pixels: Pixels, factor: np.float32) -> Pixels:
    """Return smooth + factor * (pixels - smooth); the border stays as it is, as in Pillow."""
    found = pixels.copy()
    height, width, _ = pixels.shape
    rows, out = pixels.reshape(height, width * 3), found.reshape(height, width * 3)
    sums = np.empty(width * 3, np.float32)
    for y in range(1, height - 1):
        above, row, below, target = rows[y - 1], rows[y], rows[y + 1], out[y]
        for k in range(len(row)):
            sums[k] = np.float32(above[k]) + np.float32(row[k]) + np.float32(below[k])
        for k in range(3, len(row) - 3):
            level = np.float32(row[k])
            total = sums[k - 3] + sums[k] + sums[k + 3] + SMOOTH_EXTRA * level
            smooth = np.floor(total / SMOOTH_SUM + np.float32(0.5))
            target[k] = _to_level(smooth + factor * (level - smooth))
    return found


@_compile
def _cubic(before, first, second, behind, fraction):
    """Pillow's cubic through four levels (its a is -1), `fraction` from 0 to 1 between `first` and `second`."""
    rise = second - before
    bend = np.float32(2) * (before - first) + second - behind
    twist = first - before - second + behind
    return first + fraction * (rise + fraction * (bend + fraction * twist))


@_compile
def _find_span(start, length):
    """Return which positions `start` + 0, 1, ... of `length` lie within 0 to `length`: first, behind the last."""
    first = min(max(math.ceil(-start), 0), length)
    last = min(max(math.ceil(length - start), first), length)
    return first, last


@_compile
def shift_lines(pixels: Pixels, found: Pixels, slope: float, shift: float, fill: Pixels) -> None:
    """Line n of `found` is that of `pixels`, taken `slope` * (n + 0.5) + `shift` positions further on."""
    num_lines, length, _ = pixels.shape
    padded, line = np.empty((length + 3) * 3, np.float32), np.empty(length * 3, np.uint8)
    for number in range(num_lines):
        start = 0.5 + slope * (number + 0.5) + shift
        first, last = _find_span(start, length)
        base = math.floor(start - 0.5)
        fraction = np.float32(start - 0.5 - base)
        for tap in range(last - first + 3):
            position = min(max(first + base - 1 + tap, 0), length - 1)
            for channel in range(3):
                padded[3 * tap + channel] = pixels[number, position, channel]
        for k in range(3 * (last - first)):
            line[k] = _to_level(_cubic(padded[k], padded[k + 3], padded[k + 6], padded[k + 9], fraction))
        for position in range(length):
            is_inside = first <= position < last
            for channel in range(3):
                found[number, position, channel] = (
                    line[3 * (position - first) + channel] if is_inside else fill[channel]
                )


@_compile
def turn(pixels: Pixels, cosine: float, sine: float, shift_x: float, shift_y: float, fill: Pixels) -> Pixels:
    """Any rotation: sixteen pixels make one.

    For each row they are first laid out as sixteen rows, so that the arithmetic is one the compiler vectorises.
    """
    height, width, _ = pixels.shape
    found = np.empty_like(pixels)
    padded = np.zeros((height + 4, width + 4, 4), np.uint8)
    for y in range(height + 4):
        for x in range(width + 4):
            for channel in range(3):
                padded[y, x, channel] = pixels[min(max(y - 2, 0), height - 1), min(max(x - 2, 0), width - 1), channel]
    whole = padded.view(np.uint32)  # a pixel in one number
    taps = np.empty((4, 4, width), np.uint32)
    levels, lines, line = taps.view(np.uint8), np.empty((5, width * 4), np.float32), np.empty(width * 4, np.uint8)
    fractions = np.empty((2, width * 4), np.float32)
    is_inside = np.empty(width, np.bool_)
    for y in range(height):
        for x in range(width):
            at_x = cosine * (x + 0.5) + sine * (y + 0.5) + shift_x
            at_y = -sine * (x + 0.5) + cosine * (y + 0.5) + shift_y
            is_inside[x] = 0 <= at_x < width and 0 <= at_y < height
            if not is_inside[x]:
                continue
            base_x, base_y = math.floor(at_x - 0.5), math.floor(at_y - 0.5)
            for channel in range(4):
                fractions[0, 4 * x + channel] = at_x - 0.5 - base_x
                fractions[1, 4 * x + channel] = at_y - 0.5 - base_y
            for row in range(4):
                for column in range(4):
                    taps[row, column, x] = whole[base_y + 1 + row, base_x + 1 + column, 0]
        for row in range(4):
            _filter(levels[row], fractions[0], lines[row])
        _filter(lines, fractions[1], lines[4])
        _to_levels(lines[4], line)
        for x in range(width):
            for channel in range(3):
                found[y, x, channel] = line[4 * x + channel] if is_inside[x] else fill[channel]
    return found


@_compile
def _filter(levels, fractions, found):
    """Reduce four rows to one; few arrays at a time, else the compiler gives up on vectors."""
    before, first, second, behind = levels[0], levels[1], levels[2], levels[3]
    for k in range(len(found)):
        found[k] = _cubic(
            np.float32(before[k]), np.float32(first[k]), np.float32(second[k]), np.float32(behind[k]), fractions[k]
        )


@_compile
def _to_levels(values, found):
    for k in range(len(found)):
        found[k] = _to_level(values[k])

"""Axes of charts as SVG text: where numbers stand, round ticks, the frame. Colours come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hornet.quantities import shorten

WIDTH, HEIGHT = 440, 230
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 14, 38

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Numbers to pixels."""

    low: float
    """The number at `start`; over 0 if logarithmic."""
    high: float
    """The number at `stop`, over `low`."""
    start: float
    """Pixel of `low`."""
    stop: float
    """Pixel of `high`."""
    is_log: bool
    """Whether equal factors take equal room."""

    def place(self, values: npt.ArrayLike) -> Values:
        """Return the pixels of numbers; those below a logarithmic axis stand at its start."""
        numbers = np.asarray(values, dtype=np.float64)
        low, high = self.low, self.high
        if self.is_log:
            numbers, low, high = np.log(np.maximum(numbers, self.low)), math.log(low), math.log(high)
        return self.start + (numbers - low) / (high - low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Return round numbers within the axis."""
        if self.is_log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            steps = (1, 2, 5) if last - first <= 3 else (1,)
            found = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        else:
            step = _round_step((self.high - self.low) / 4)
            found = [number * step for number in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [tick for tick in found if self.low <= tick <= self.high * (1 + 1e-9)]


def draw_frame(
    x: Axis,
    y: Axis,
    content: str,
    *,
    title: str,
    x_name: str,
    y_name: str,
    format_x: Callable[[float], str] = shorten,
    format_y: Callable[[float], str] = shorten,
    attributes: str = "",
) -> str:
    """Draw the axes and what lies between them. Nothing is escaped here, and `attributes` of the picture neither."""
    parts = []
    for tick, place in _spaced(y.ticks(), y.place(y.ticks()), room=22):
        parts.append(f'<path class="grid" d="M{LEFT} {place:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{place + 4:.1f}" text-anchor="end">{format_y(tick)}</text>')
    for tick, place in _spaced(x.ticks(), x.place(x.ticks()), room=46):
        parts.append(f'<text x="{place:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{format_x(tick)}</text>')
    base = HEIGHT - BOTTOM
    parts.append(f'<path class="base" d="M{LEFT} {base}H{WIDTH - RIGHT}"/>')
    scales = [name for name, axis in ((x_name, x), (y_name, y)) if axis.is_log]
    note = f" (log {' and '.join(scales)})" if scales else ""
    parts.append(f'<text class="name" x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" text-anchor="end">{x_name}{note}</text>')
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}" {attributes}'
    return f"<svg {box}>{''.join(parts)}{content}</svg>"


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(max(step, 1e-12)))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def _spaced(ticks: Sequence[float], places: Values, *, room: float) -> list[tuple[float, float]]:
    """Leave out ticks that would stand too close to the one before."""
    kept: list[tuple[float, float]] = []
    for tick, place in zip(ticks, places.tolist(), strict=True):
        if not kept or abs(place - kept[-1][1]) >= room:
            kept.append((tick, place))
    return kept

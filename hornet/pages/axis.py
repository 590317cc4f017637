"""Axes of charts as SVG text: where numbers stand, round ticks, the frame. Colours come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from hornet.pages.html import render
from hornet.quantities import shorten

WIDTH, HEIGHT = 440, 230
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 14, 38

Values = npt.NDArray[np.float64]

FRAME = """\
<svg viewBox="0 0 {{ width }} {{ height }}" role="img" aria-label="{{ title }}"
  {%- if curves %} tabindex="0" data-curves="{{ curves }}"{% endif %}>
{% for pixel, text_at, text in rows %}
<path class="grid" d="M{{ left }} {{ pixel }}H{{ right }}"/>
<text x="{{ left - 7 }}" y="{{ text_at }}" text-anchor="end">{{ text }}</text>
{% endfor %}
{% for pixel, text in columns %}
<text x="{{ pixel }}" y="{{ base + 16 }}" text-anchor="middle">{{ text }}</text>
{% endfor %}
<path class="base" d="M{{ left }} {{ base }}H{{ right }}"/>
<text class="name" x="{{ right }}" y="{{ height - 5 }}" text-anchor="end">{{ x_name }}</text>
{{ content }}</svg>
"""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis of a chart: which numbers stand at which pixels of the SVG."""

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

    def to_pixels(self, values: npt.ArrayLike) -> Values:
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
            found = self._keep_inside([step * 10.0**power for power in range(first, last + 1) for step in steps])
            if len(found) > 1:  # else so narrow that it is nearly linear
                return found
        step = _round_step((self.high - self.low) / (8 if self.is_log else 4))
        numbers = range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
        return self._keep_inside([number * step for number in numbers])

    def _keep_inside(self, ticks: list[float]) -> list[float]:
        return [tick for tick in ticks if self.low - 1e-9 * abs(self.low) <= tick <= self.high + 1e-9 * abs(self.high)]


def render_frame(
    x: Axis,
    y: Axis,
    content: Markup,
    *,
    title: str,
    x_name: str,
    y_name: str,
    format_x: Callable[[float], str] = shorten,
    curves: str = "",
) -> Markup:
    """Render the axes and what lies between them.

    `curves` is what the script of a page needs to read values off them, as JSON; with it the chart takes the focus.
    """
    scales = [name for name, axis in ((x_name, x), (y_name, y)) if axis.is_log]
    return render(
        FRAME,
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=WIDTH - RIGHT,
        base=HEIGHT - BOTTOM,
        rows=[
            (f"{pixel:.1f}", f"{pixel + 4:.1f}", shorten(tick))
            for tick, pixel in _spaced(y.ticks(), y.to_pixels(y.ticks()), room=22)
        ],
        columns=[
            (f"{pixel:.1f}", format_x(tick)) for tick, pixel in _spaced(x.ticks(), x.to_pixels(x.ticks()), room=46)
        ],
        x_name=f"{x_name} (log {' and '.join(scales)})" if scales else x_name,
        title=title,
        curves=curves,
        content=content,
    )


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(max(step, 1e-12)))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def _spaced(ticks: Sequence[float], pixels: Values, *, room: float) -> list[tuple[float, float]]:
    """Leave out ticks that would stand too close to the one before."""
    kept: list[tuple[float, float]] = []
    for tick, pixel in zip(ticks, pixels.tolist(), strict=True):
        if not kept or abs(pixel - kept[-1][1]) >= room:
            kept.append((tick, pixel))
    return kept

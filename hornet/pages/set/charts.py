"""Small charts as SVG text: a sorted curve, a histogram, a scatter. Colours come from the page's style."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from hornet.pages.axis import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, render_frame
from hornet.pages.html import render

SKEW_FOR_LOG = 20  # largest over smallest positive value from which an axis is logarithmic
NUM_CURVE_POINTS = 400
NUM_BINS = 36

CURVE = """<path class="area" d="{{ area }}"/><path class="line" d="{{ line }}"/>"""

BARS = """\
<g class="bars">
{% for x, y, width, height in bars %}
<rect x="{{ x }}" y="{{ y }}" width="{{ width }}" height="{{ height }}"/>
{% endfor %}
</g>
"""

DOTS = """\
<path class="dash" d="{{ square }}"/><g class="dots">
{% for x, y in dots %}
<circle cx="{{ x }}" cy="{{ y }}" r="2.6"/>
{% endfor %}
</g>
"""


def render_curve(counts: npt.NDArray[np.int64]) -> Markup:
    """Render how many images each class has, the largest first; logarithmic if the counts are far apart."""
    heights = np.sort(counts)[::-1]
    chosen = np.unique(np.linspace(0, len(heights) - 1, NUM_CURVE_POINTS).round().astype(np.int64))
    y = _make_axis(heights, start=HEIGHT - BOTTOM, stop=TOP, from_zero=True)
    x = Axis(low=0, high=max(1, len(heights)), start=LEFT, stop=WIDTH - RIGHT, is_log=False)
    # A class is a step of width 1: one class alone, or two, still make an area.
    lefts, rights = x.to_pixels(chosen), x.to_pixels(np.append(chosen[1:], len(heights)))
    pixels = y.to_pixels(heights[chosen])
    steps = "".join(f"L{a:.1f} {v:.1f}H{b:.1f}" for a, b, v in zip(lefts, rights, pixels, strict=True))
    curve = render(CURVE, area=f"M{LEFT} {y.start}{steps}V{y.start}Z", line=f"M{steps[1:]}")
    return render_frame(x, y, curve, title="Images of each class, largest first", x_name="classes", y_name="images")


def render_histogram(
    values: npt.NDArray[np.int64], *, title: str, x_name: str, format_tick: Callable[[float], str]
) -> Markup:
    """Render how values are spread; bins are of equal width, or of equal ratio if the values are far apart."""
    x = _make_axis(values, start=LEFT, stop=WIDTH - RIGHT)
    spread = np.geomspace if x.is_log else np.linspace
    edges = spread(x.low, x.high, NUM_BINS + 1)
    edges[0], edges[-1] = x.low, x.high  # geomspace rounds
    counts, _ = np.histogram(np.maximum(values, x.low), edges)
    y = Axis(low=0, high=max(1, int(counts.max())), start=HEIGHT - BOTTOM, stop=TOP, is_log=False)
    lefts, rights, tops = x.to_pixels(edges[:-1]), x.to_pixels(edges[1:]), y.to_pixels(counts)
    bars = [
        (f"{a + 0.5:.1f}", f"{t:.1f}", f"{max(0.5, b - a - 1):.1f}", f"{y.start - t:.1f}")
        for a, b, t in zip(lefts, rights, tops, strict=True)
        if y.start - t > 0
    ]
    content = render(BARS, bars=bars)
    return render_frame(x, y, content, title=title, x_name=x_name, y_name="images", format_x=format_tick)


def render_scatter(sizes: npt.NDArray[np.int64]) -> Markup:
    """Render widths and heights (n, 2) of images; the dashed line is the square."""
    both = sizes.ravel()
    x = _make_axis(both, start=LEFT, stop=WIDTH - RIGHT, is_log=True)
    y = Axis(low=x.low, high=x.high, start=HEIGHT - BOTTOM, stop=TOP, is_log=True)
    square = f"M{x.start} {y.start}L{x.stop} {y.stop}"
    dots = [(f"{a:.1f}", f"{b:.1f}") for a, b in zip(x.to_pixels(sizes[:, 0]), y.to_pixels(sizes[:, 1]), strict=True)]
    content = render(DOTS, square=square, dots=dots)
    return render_frame(x, y, content, title="Width and height of images", x_name="width", y_name="height")


def _make_axis(
    values: npt.NDArray[np.int64], *, start: float, stop: float, from_zero: bool = False, is_log: bool | None = None
) -> Axis:
    positive = values[values > 0]
    low, high = (float(positive.min()), float(positive.max())) if len(positive) else (1.0, 1.0)
    if is_log is None:
        is_log = high / low >= SKEW_FOR_LOG
    if is_log:
        return Axis(low=low * 0.9, high=high * 1.1, start=start, stop=stop, is_log=True)
    if from_zero:
        return Axis(low=0, high=high * 1.05, start=start, stop=stop, is_log=False)
    room = max(1.0, 0.04 * (high - low))
    return Axis(low=max(0.0, low - room), high=high + room, start=start, stop=stop, is_log=False)

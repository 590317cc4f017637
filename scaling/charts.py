"""Charts of a study: lines and points with intervals, and heat maps; as the page's own SVG, and by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from hornet.pages.axis import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, render_frame
from hornet.pages.html import render
from hornet.quantities import shorten

COLOURS = ("#3267d6", "#c2571a", "#2a8a4a", "#8a3fb0", "#b0a020", "#1a8a9a", "#c03060", "#607080")

LARGE = 1e12
"""From here on numbers of an axis have a power of ten, not a letter."""

SERIES = """\
{% if diagonal %}<path d="{{ diagonal }}" class="dash" fill="none"/>{% endif %}
{% for series in all %}
{% if series.band %}<path d="{{ series.band }}" fill="{{ series.colour }}" opacity="0.13"/>{% endif %}
{% if series.line %}<path d="{{ series.line }}" fill="none" stroke="{{ series.colour }}" stroke-width="1.5"/>{% endif %}
{% for x, low, high in series.bars %}
<path d="M{{ x }} {{ low }}V{{ high }}" stroke="{{ series.colour }}" stroke-width="1.4"/>
{% endfor %}
{% for x, y, title, is_open in series.dots %}
<circle cx="{{ x }}" cy="{{ y }}" r="3" stroke="{{ series.colour }}" stroke-width="1.4"
  fill="{{ "none" if is_open else series.colour }}"><title>{{ title }}</title></circle>
{% endfor %}
{% endfor %}
"""
LEGEND = """\
<p class="soft">
{% for label, colour in entries %}<span style="color: {{ colour }}">&#9679; {{ label }}</span> &ensp; {% endfor %}
</p>
"""
CELLS = """\
<svg viewBox="0 0 {{ width }} {{ height }}" role="img" aria-label="{{ title }}">
{% for x, y, w, h, share, text in cells %}
<rect x="{{ x }}" y="{{ y }}" width="{{ w }}" height="{{ h }}" fill="#3267d6" fill-opacity="{{ share }}"/>
<text x="{{ x + w / 2 }}" y="{{ y + h / 2 + 4 }}" text-anchor="middle" style="fill: currentColor">{{ text }}</text>
{% endfor %}
{% for y, text in rows %}<text x="{{ left - 7 }}" y="{{ y }}" text-anchor="end">{{ text }}</text>{% endfor %}
{% for x, text in columns %}<text x="{{ x }}" y="{{ base }}" text-anchor="middle">{{ text }}</text>{% endfor %}
</svg>
"""


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points that belong together, and a curve through them."""

    label: str
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    names: tuple[str, ...] = ()
    is_held_out: tuple[bool, ...] = ()
    errors: tuple[tuple[float, float], ...] = ()
    """(low, high) of each point, or none at all."""
    curve_x: tuple[float, ...] = ()
    curve_y: tuple[float, ...] = ()
    band: tuple[tuple[float, float], ...] = ()
    """(low, high) of the curve at each of curve_x, or none at all."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart, in logarithms unless said otherwise."""

    file: str
    title: str
    x_name: str
    y_name: str
    series: tuple[Series, ...]
    note: str
    """How many runs stand in it, and which do not."""
    is_x_log: bool = True
    has_diagonal: bool = False
    """Whether x = y is shown, where both are the same quantity."""


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """Numbers in rows and columns; the deeper the colour, the larger."""

    file: str
    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    """None where nothing was measured."""
    note: str


Chart = Figure | HeatMap


def render_chart(chart: Chart) -> Markup:
    """Render a chart as SVG text for the page; held-out runs are open circles."""
    return _render_map(chart) if isinstance(chart, HeatMap) else _render_figure(chart)


def save_charts(charts: Sequence[Chart], folder: Path) -> str | None:
    """Write each chart as SVG and PDF; return a sentence instead where matplotlib is not installed."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        return "matplotlib is not installed, so there are no SVG and PDF files; the page has its own figures"
    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    for chart in charts:
        canvas, axes = pyplot.subplots(figsize=(5, 3.6), constrained_layout=True)
        if isinstance(chart, HeatMap):
            _plot_map(chart, axes)
        else:
            _plot_figure(chart, axes)
        axes.set_title(chart.note if len(chart.note) < 90 else f"{chart.note[:87]}...", fontsize="xx-small")
        for kind in ("svg", "pdf"):
            canvas.savefig(folder / f"{chart.file}.{kind}")
        pyplot.close(canvas)
    return None


def _render_figure(figure: Figure) -> Markup:
    xs = [x for series in figure.series for x in (*series.x, *series.curve_x)]
    ys = [y for series in figure.series for y in (*series.y, *series.curve_y, *np.ravel(series.errors).tolist())]
    ys += [y for series in figure.series for y in np.ravel(series.band).tolist()]
    if figure.has_diagonal:
        xs = ys = [*xs, *ys]
    low, high = min(xs), max(xs)
    x = Axis(
        low=low / 1.1 if figure.is_x_log else low, high=high * 1.1 if figure.is_x_log else max(high, low + 1),
        start=LEFT, stop=WIDTH - RIGHT, is_log=figure.is_x_log,
    )  # fmt: skip
    y = Axis(low=min(ys) / 1.02, high=max(ys) * 1.02, start=HEIGHT - BOTTOM, stop=TOP, is_log=True)
    content = [_lay_out(series, number, x, y) for number, series in enumerate(figure.series)]
    diagonal = ""
    if figure.has_diagonal:
        ends = [max(x.low, y.low), min(x.high, y.high)]
        diagonal = _join(x.to_pixels(ends), y.to_pixels(ends))
    body = render(SERIES, all=content, diagonal=diagonal)
    chart = render_frame(
        x, y, body, title=figure.title, x_name=figure.x_name, y_name=figure.y_name,
        format_x="{:.0e}".format if x.high >= LARGE else shorten,
    )  # fmt: skip
    entries = [(series["label"], series["colour"]) for series in content if series["label"]]
    return chart + render(LEGEND, entries=entries) if entries else chart


def _lay_out(series: Series, number: int, x: Axis, y: Axis) -> dict[str, Any]:
    dots = zip(x.to_pixels(series.x), y.to_pixels(series.y), series.names, series.is_held_out, strict=True)
    band = ""
    if series.band:
        edges = np.array(series.band)
        at = x.to_pixels(series.curve_x)
        outline = _join([*at, *at[::-1]], [*y.to_pixels(edges[:, 0]), *y.to_pixels(edges[::-1, 1])])
        band = f"{outline}Z"
    pairs = np.array(series.errors).reshape(-1, 2)
    bars = zip(x.to_pixels(series.x[: len(pairs)]), y.to_pixels(pairs[:, 0]), y.to_pixels(pairs[:, 1]), strict=True)
    return {
        "label": series.label,
        "colour": COLOURS[number % len(COLOURS)],
        "line": _join(x.to_pixels(series.curve_x), y.to_pixels(series.curve_y)),
        "band": band,
        "bars": [(f"{a:.1f}", f"{b:.1f}", f"{c:.1f}") for a, b, c in bars],
        "dots": [(f"{a:.1f}", f"{b:.1f}", name, is_open) for a, b, name, is_open in dots],
    }


def _join(xs: Any, ys: Any) -> str:
    points = [f"{a:.1f} {b:.1f}" for a, b in zip(xs, ys, strict=True)]
    return f"M{'L'.join(points)}" if points else ""


def _render_map(chart: HeatMap) -> Markup:
    left, top, base = 90, TOP, HEIGHT - BOTTOM
    width, height = (WIDTH - RIGHT - left) / len(chart.columns), (base - top) / len(chart.rows)
    shares = _shade(chart)
    cells = []
    for row, values in enumerate(chart.values):
        for column, value in enumerate(values):
            text = "" if value is None else f"{value:.3g}"
            corner = (round(left + column * width, 1), round(top + row * height, 1))
            cells.append((*corner, round(width - 1, 1), round(height - 1, 1), shares[row][column], text))
    return render(
        CELLS,
        width=WIDTH,
        height=HEIGHT,
        title=chart.title,
        cells=cells,
        left=left,
        base=base + 16,
        rows=[(round(top + (row + 0.5) * height + 4, 1), name) for row, name in enumerate(chart.rows)],
        columns=[(round(left + (at + 0.5) * width, 1), name) for at, name in enumerate(chart.columns)],
    )


def _shade(chart: HeatMap) -> list[list[float]]:
    known = [value for values in chart.values for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    span = (high - low) or 1.0
    return [
        [0.0 if value is None else round(0.1 + 0.6 * (value - low) / span, 3) for value in values]
        for values in chart.values
    ]


def _plot_figure(figure: Figure, axes: Any) -> None:
    for number, series in enumerate(figure.series):
        colour = COLOURS[number % len(COLOURS)]
        label = series.label or None
        axes.plot(series.curve_x, series.curve_y, color=colour, linewidth=1, label=None if series.x else label)
        if series.band:
            edges = np.array(series.band)
            axes.fill_between(series.curve_x, edges[:, 0], edges[:, 1], color=colour, alpha=0.13, linewidth=0)
        for x, (low, high) in zip(series.x, series.errors, strict=False):
            axes.plot([x, x], [low, high], color=colour, linewidth=1)
        for is_open in (False, True):
            held = np.array(series.is_held_out, dtype=bool) == is_open
            if not held.any():
                continue
            points: dict[str, Any] = {"color": colour, "linestyle": "", "marker": "o", "markersize": 4}
            points |= {"markerfacecolor": "none"} if is_open else {"label": label}
            axes.plot(np.array(series.x)[held], np.array(series.y)[held], **points)
    axes.set(xscale="log" if figure.is_x_log else "linear", yscale="log", xlabel=figure.x_name, ylabel=figure.y_name)
    if figure.has_diagonal:
        numbers = [number for series in figure.series for number in (*series.x, *series.y)]
        axes.plot([min(numbers), max(numbers)], [min(numbers), max(numbers)], "--", color="gray", linewidth=0.8)
    axes.grid(alpha=0.3, which="both")
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize="xx-small")


def _plot_map(chart: HeatMap, axes: Any) -> None:
    values = np.array([[np.nan if value is None else value for value in row] for row in chart.values])
    axes.imshow(values, aspect="auto", cmap="Blues", alpha=0.7)
    for row, column in np.argwhere(np.isfinite(values)):
        axes.text(column, row, f"{values[row, column]:.3g}", ha="center", va="center", fontsize="small")
    axes.set_xticks(range(len(chart.columns)), chart.columns)
    axes.set_yticks(range(len(chart.rows)), chart.rows)
    axes.set_xlabel(chart.title, fontsize="small")

"""The figure of an evaluation, one SVG file: confidence against accuracy, and top-1 over sizes or severities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from hornet.pages.axis import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, render_frame
from hornet.pages.html import join, render

NUM_COLOURS = 4
LEGEND_ROW = 18

FIGURE = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{ width }} {{ height }}" role="img" aria-label="{{ title }}">
<style>
svg { --ground: #fff; --soft: #5f6b7a; --line: #e2e6ec; --c0: #3267d6; --c1: #d0661a; --c2: #23875a; --c3: #7a52c7; }
@media (prefers-color-scheme: dark) { svg { --ground: #1a2029; --soft: #94a0b0; --line: #2b3441; --c0: #79a5ff;
  --c1: #ffa366; --c2: #5fd39b; --c3: #b79cff; } }
text { font: 12px system-ui, sans-serif; fill: var(--soft); } .ground { fill: var(--ground); }
.grid { stroke: var(--line); } .base { stroke: var(--soft); opacity: .6; }
.dash { stroke: var(--soft); stroke-dasharray: 4 4; opacity: .5; fill: none; }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
{% for n in range(colours) %}
.s{{ n }} { stroke: var(--c{{ n }}); } .f{{ n }} { fill: var(--c{{ n }}); }
{% endfor %}
</style>
<rect class="ground" width="{{ width }}" height="{{ height }}"/>
{% for x, chart in charts %}
<svg x="{{ x }}" y="0" width="{{ chart_width }}" height="{{ chart_height }}">{{ chart }}</svg>
{% endfor %}
{% for x, y, colour, name in legend %}
<rect class="f{{ colour }}" x="{{ x }}" y="{{ y - 9 }}" width="10" height="10" rx="3"/>
<text x="{{ x + 16 }}" y="{{ y }}">{{ name }}</text>
{% endfor %}
</svg>
"""

CURVE = """\
<path class="curve s{{ colour }}" d="{{ path }}"/><g class="f{{ colour }}">
{% for x, y, text in dots %}
<circle cx="{{ x }}" cy="{{ y }}" r="3"><title>{{ text }}</title></circle>
{% endfor %}
</g>
"""

DIAGONAL = """<path class="dash" d="{{ path }}"/>"""


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Confidence against accuracy, in bins."""

    name: str
    """In the legend: which weights, on which size of images."""
    counts: Sequence[int]
    """Images of each bin."""
    hits: Sequence[int]
    """Of these, images that were classified rightly."""
    confidences: Sequence[float]
    """Sum over the images of each bin of their highest probability, 0..1."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Top-1 over something that was varied."""

    name: str
    """What the legend calls the line."""
    x_name: str
    """What was varied, as the axis calls it."""
    points: Sequence[tuple[float, float]]
    """Its value, and top-1 in percent."""


def render_figure(reliabilities: Sequence[Reliability], sweeps: Sequence[Sweep]) -> str:
    """Render the SVG file's text; the second chart is left out without sweeps."""
    charts = [(_render_reliability(reliabilities), [reliability.name for reliability in reliabilities])]
    if sweeps:
        charts.append((_render_sweeps(sweeps), [sweep.name for sweep in sweeps]))
    legend = [
        (column * WIDTH + LEFT, HEIGHT + 14 + row * LEGEND_ROW, row % NUM_COLOURS, name)
        for column, (_, names) in enumerate(charts)
        for row, name in enumerate(names)
    ]
    rows = max(len(names) for _, names in charts)
    return str(
        render(
            FIGURE,
            width=WIDTH * len(charts),
            height=HEIGHT + 8 + rows * LEGEND_ROW,
            chart_width=WIDTH,
            chart_height=HEIGHT,
            title="Confidence against accuracy" + (f"; top-1 over {sweeps[0].x_name}" if sweeps else ""),
            charts=[(column * WIDTH, chart) for column, (chart, _) in enumerate(charts)],
            legend=legend,
            colours=NUM_COLOURS,
        )
    )


def _render_reliability(reliabilities: Sequence[Reliability]) -> Markup:
    x = Axis(low=0, high=1, start=LEFT, stop=WIDTH - RIGHT, is_log=False)
    y = Axis(low=0, high=1, start=HEIGHT - BOTTOM, stop=TOP, is_log=False)
    parts = [render(DIAGONAL, path=f"M{x.start} {y.start}L{x.stop} {y.stop}")]
    for number, given in enumerate(reliabilities):
        rows = zip(given.counts, given.hits, given.confidences, strict=True)
        points = [(sure / count, hits / count, f"{count} images") for count, hits, sure in rows if count]
        parts.append(_render_curve(x, y, points, colour=number % NUM_COLOURS))
    title = "Share of images found, by the probability of the class that is named"
    return render_frame(x, y, join(parts), title=title, x_name="probability", y_name="found")


def _render_sweeps(sweeps: Sequence[Sweep]) -> Markup:
    xs = [x for sweep in sweeps for x, _ in sweep.points]
    ys = [y for sweep in sweeps for _, y in sweep.points]
    room = max(1.0, 0.1 * (max(ys) - min(ys)))
    x = Axis(low=min(xs), high=max(xs), start=LEFT, stop=WIDTH - RIGHT, is_log=False)
    low, high = max(0.0, min(ys) - room), max(ys) + room
    y = Axis(low=low, high=high, start=HEIGHT - BOTTOM, stop=TOP, is_log=False)
    parts = []
    for number, sweep in enumerate(sweeps):
        points = [(a, b, f"{sweep.name}, {a:g} {sweep.x_name}: {b:.3f} %") for a, b in sorted(sweep.points)]
        parts.append(_render_curve(x, y, points, colour=number % NUM_COLOURS))
    x_name = sweeps[0].x_name
    return render_frame(x, y, join(parts), title=f"Top-1 in percent over {x_name}", x_name=x_name, y_name="top-1 %")


def _render_curve(x: Axis, y: Axis, points: Sequence[tuple[float, float, str]], *, colour: int) -> Markup:
    pixels = zip(x.to_pixels([a for a, _, _ in points]), y.to_pixels([b for _, b, _ in points]), points, strict=True)
    dots = [(f"{a:.1f}", f"{b:.1f}", text) for a, b, (_, _, text) in pixels]
    path = "M" + "L".join(f"{a} {b}" for a, b, _ in dots) if dots else ""
    return render(CURVE, colour=colour, path=path, dots=dots)

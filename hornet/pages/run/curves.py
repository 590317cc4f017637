"""Curves over the steps of a run, as SVG, with what a script needs to read values off them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup

from hornet.pages.axis import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, render_frame
from hornet.pages.html import join, render
from hornet.runs.rows import present

NUM_POINTS = 600
"""Of a chart, about; of longer runs each stretch is shown by its smallest and largest values."""
NUM_MARKS = 200
NUM_COLOURS = 10
SKEW_FOR_LOG = 50  # largest over smallest value from which a chart is logarithmic

Values = Sequence[float | None]

CHART = """\
<section class="card chart"><h3>{{ title }}</h3>{{ frame }}
<ul class="legend"><li class="at">step <b>{{ last_step }}</b></li>
  {%- for colour, name, last in legend -%}
  <li><i class="f{{ colour }}"></i>{{ name }} <b>{{ last }}</b></li>
  {%- endfor %}</ul></section>
"""

LINE = """\
<path class="curve s{{ colour }}" d="{{ path }}"/><g class="f{{ colour }}">
{% for x, y in dots %}
<circle cx="{{ x }}" cy="{{ y }}" r="2.4"/>
{% endfor %}
</g>
"""

MARKS = """\
{% for shape, text in shapes %}
<path class="{{ kind }}" d="{{ shape }}"><title>{{ text }}</title></path>
{% endfor %}
"""

CURSOR = """<path class="cursor" d="M0 {{ top }}V{{ base }}" visibility="hidden"/>"""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Some quantities of one kind over the steps."""

    title: str
    """Heading of the card."""
    steps: Sequence[float]
    """The steps that have values, ascending; the x of all series."""
    series: Mapping[str, Values]
    """Values by name, one a step; None where there is none."""
    unit: str = ""
    """Behind a value, such as " %"."""
    may_be_log: bool = True
    """Whether the axis is logarithmic where values are far apart."""
    from_zero: bool = False
    """Whether a linear axis begins at zero."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Something that happened at a step."""

    step: float
    """Of the run, 1-based as in metrics.jsonl; the place on the axis."""
    text: str
    """A sentence, shown where the pointer rests on the mark."""


def render_chart(chart: Chart, *, last_step: float, restarts: Sequence[Mark], drops: Sequence[Mark] = ()) -> Markup:
    """Render a chart as a card: title, curves, and a legend with the last values; empty if it has no value."""
    everything = present([value for values in chart.series.values() for value in values])
    if not everything:
        return Markup("")
    x = Axis(low=0, high=max(1.0, last_step), start=LEFT, stop=WIDTH - RIGHT, is_log=False)
    y = make_axis(everything, may_be_log=chart.may_be_log, from_zero=chart.from_zero)
    kept = thin(chart.series, limit=NUM_POINTS)
    steps = [chart.steps[index] for index in kept]
    series = {name: [values[index] for index in kept] for name, values in chart.series.items()}
    content = [_render_marks(restarts, x, kind="restart"), _render_marks(drops, x, kind="drop")]
    content += [
        _render_line(steps, values, x=x, y=y, colour=number % NUM_COLOURS)
        for number, values in enumerate(series.values())
    ]
    content.append(render(CURSOR, top=TOP, base=HEIGHT - BOTTOM))
    data = {
        "steps": [int(step) for step in steps],
        "values": [[_round(value) for value in values] for values in series.values()],
        "unit": chart.unit,
        "pixels": [x.start, x.stop, WIDTH],
        "last": x.high,
    }
    label = f"{chart.title}: {_describe(chart)}"
    frame = render_frame(x, y, join(content), title=label, x_name="step", y_name="value", curves=json.dumps(data))
    legend = [
        (number % NUM_COLOURS, name, _format_last(values, chart.unit))
        for number, (name, values) in enumerate(series.items())
    ]
    return render(CHART, title=chart.title, frame=frame, last_step=f"{steps[-1]:,.0f}", legend=legend)


def thin(series: Mapping[str, Values], *, limit: int) -> list[int]:
    """Return which points to show, about `limit`: of each stretch the smallest and largest value of each series."""
    length = max(len(values) for values in series.values())
    if length <= limit:
        return list(range(length))
    kept = {0, length - 1}
    edges = np.linspace(0, length, max(1, limit // (2 * len(series))) + 1).astype(int).tolist()
    for values in series.values():
        for first, stop in pairwise(edges):
            there = [(value, index) for index in range(first, stop) if (value := values[index]) is not None]
            if there:
                kept |= {min(there)[1], max(there)[1]}
    return sorted(kept)


def make_axis(values: Sequence[float], *, may_be_log: bool, from_zero: bool) -> Axis:
    """Return a vertical axis with room for the values."""
    low, high = min(values), max(values)
    if may_be_log and low > 0 and high / low >= SKEW_FOR_LOG:
        return Axis(low=low * 0.9, high=high * 1.1, start=HEIGHT - BOTTOM, stop=TOP, is_log=True)
    if from_zero and low >= 0:
        return Axis(low=0, high=high * 1.05 or 1.0, start=HEIGHT - BOTTOM, stop=TOP, is_log=False)
    room = 0.04 * (high - low) or 0.1 * abs(high) or 1.0
    return Axis(low=low - room, high=high + room, start=HEIGHT - BOTTOM, stop=TOP, is_log=False)


def format_value(value: float | None) -> str:
    """Return a value with four digits, as the script writes it."""
    if value is None:
        return "none"
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3e}"
    rounded = float(f"{value:.4g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:g}"


def _describe(chart: Chart) -> str:
    """Say in words what a chart shows, for those who do not see it."""
    texts = []
    for name, values in chart.series.items():
        there = present(list(values))
        if there:
            first, last, low, high = (format_value(v) for v in (there[0], there[-1], min(there), max(there)))
            texts.append(f"{name} from {first} to {last}{chart.unit}, between {low} and {high}{chart.unit}")
    return f"{'; '.join(texts)}; steps {chart.steps[0]:,.0f} to {chart.steps[-1]:,.0f}"


def _render_line(steps: Sequence[float], values: Values, *, x: Axis, y: Axis, colour: int) -> Markup:
    """Render one series; a point between two gaps is a dot."""
    path = ""
    dots = []
    is_open = False
    for index, (step, value) in enumerate(zip(steps, values, strict=True)):
        if value is None:
            is_open = False
            continue
        across, down = f"{float(x.to_pixels(step)):.1f}", f"{float(y.to_pixels(value)):.1f}"
        is_alone = not is_open and (index + 1 == len(values) or values[index + 1] is None)
        if is_alone or len(values) <= 40:
            dots.append((across, down))
        path += f"{'L' if is_open else 'M'}{across} {down}"
        is_open = True
    return render(LINE, path=path, dots=dots, colour=colour)


def _render_marks(marks: Sequence[Mark], x: Axis, *, kind: str) -> Markup:
    """Render the last marks; thousands would hide the curve."""
    shapes = []
    for mark in marks[-NUM_MARKS:]:
        pixel = float(x.to_pixels(min(max(mark.step, x.low), x.high)))
        shape = f"M{pixel - 4:.1f} {TOP - 8}h8l-4 8z" if kind == "drop" else f"M{pixel:.1f} {TOP}V{HEIGHT - BOTTOM}"
        shapes.append((shape, mark.text))
    return render(MARKS, kind=kind, shapes=shapes)


def _format_last(values: Values, unit: str) -> str:
    there = present(list(values))
    return f"{format_value(there[-1])}{unit}" if there else format_value(None)


def _round(value: float | None) -> float | None:
    """Shorten a value to what is shown of it."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")

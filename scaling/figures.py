"""Figures of a study: results against a factor with the law's curves, as SVG of the page's own and by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from hornet.pages.axis import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, render_frame
from hornet.pages.html import render
from hornet.quantities import shorten
from scaling.analysis import FamilyFit
from scaling.results import Result

COLOURS = ("#3267d6", "#c2571a", "#2a8a4a", "#8a3fb0", "#b0a020", "#1a8a9a")
AXIS_NAMES = {
    "N": "parameters without the classifier",
    "U": "unique images",
    "T": "images seen",
    "C": "training FLOPs",
}

SERIES = """\
{% for series in all %}
{% if series.line %}<path d="{{ series.line }}" fill="none" stroke="{{ series.colour }}" stroke-width="1.5"/>{% endif %}
{% for x, y, title, is_open in series.dots %}
<circle cx="{{ x }}" cy="{{ y }}" r="3" stroke="{{ series.colour }}" stroke-width="1.4"
  fill="{{ "none" if is_open else series.colour }}"><title>{{ title }}</title></circle>
{% endfor %}
<text x="{{ legend }}" y="{{ series.top }}" style="fill: {{ series.colour }}">{{ series.label }}</text>
{% endfor %}
"""


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points that belong together, and the law's curve through them."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    names: tuple[str, ...]
    is_held_out: tuple[bool, ...]
    curve_x: tuple[float, ...]
    curve_y: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart in logarithms."""

    file: str
    title: str
    x_name: str
    y_name: str
    series: tuple[Series, ...]
    note: str
    """How many runs stand in it, and which do not."""


def make_figures(fits: Sequence[FamilyFit], results: Sequence[Result], *, metric: str) -> list[Figure]:
    """Return a figure for each factor that varies."""
    runs = [run for run in results if run.stage == "pretrain"]
    missing = [run.name for run in runs if run.value is None]
    seeds = sorted({run.seed for run in runs})
    note = f"{len(runs) - len(missing)} of {len(runs)} runs, seeds {', '.join(map(str, seeds))}" + (
        f"; without a result: {', '.join(missing)}" if missing else ""
    )
    figures = []
    for factor, others in (("N", ("U", "T")), ("U", ("N",)), ("T", ("N", "U")), ("C", ())):
        shown = [run for run in runs if run.value is not None]
        if len({getattr(run, factor) for run in shown}) < 2:
            continue
        series = _divide(fits, shown, factor, others)
        figures.append(
            Figure(
                file=f"{metric}_{factor}",
                title=f"{metric} against {AXIS_NAMES[factor]}",
                x_name=AXIS_NAMES[factor],
                y_name=metric,
                series=tuple(series),
                note=note,
            )
        )
    return figures


def render_figure(figure: Figure) -> Markup:
    """Render a figure as SVG text for the page; held-out runs are open circles."""
    ys = [y for series in figure.series for y in (*series.y, *series.curve_y)]
    xs = [x for series in figure.series for x in (*series.x, *series.curve_x)]
    x = Axis(low=min(xs) / 1.1, high=max(xs) * 1.1, start=LEFT, stop=WIDTH - RIGHT, is_log=True)
    y = Axis(low=min(ys) / 1.02, high=max(ys) * 1.02, start=HEIGHT - BOTTOM, stop=TOP, is_log=True)
    content = []
    for number, series in enumerate(figure.series):
        curve = zip(x.place(series.curve_x), y.place(series.curve_y), strict=True)
        dots = zip(x.place(series.x), y.place(series.y), series.names, series.is_held_out, strict=True)
        line = "L".join(f"{a:.1f} {b:.1f}" for a, b in curve)
        content.append(
            {
                "label": series.label,
                "colour": COLOURS[number % len(COLOURS)],
                "line": f"M{line}" if line else "",
                "dots": [(f"{a:.1f}", f"{b:.1f}", name, is_open) for a, b, name, is_open in dots],
                "top": TOP + 12 * (number + 1),
            }
        )
    body = render(SERIES, all=content, legend=WIDTH - 150)
    return render_frame(x, y, body, title=figure.title, x_name=figure.x_name, y_name=figure.y_name)


def save_figures(figures: Sequence[Figure], folder: Path) -> str | None:
    """Write each figure as SVG and PDF; return a sentence instead where matplotlib is not installed."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        return "matplotlib is not installed, so there are no SVG and PDF files; the page has its own figures"
    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        canvas, axes = pyplot.subplots(figsize=(5, 3.6), constrained_layout=True)
        for number, series in enumerate(figure.series):
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(series.curve_x, series.curve_y, color=colour, linewidth=1)
            for is_open in (False, True):
                held = np.array(series.is_held_out) == is_open
                points = {"color": colour, "linestyle": "", "marker": "o", "markersize": 4}
                points |= {"markerfacecolor": "none"} if is_open else {"label": series.label}
                axes.plot(np.array(series.x)[held], np.array(series.y)[held], **points)
        axes.set(xscale="log", yscale="log", xlabel=figure.x_name, ylabel=figure.y_name)
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize="small")
        axes.set_title(figure.note if len(figure.note) < 90 else f"{figure.note[:87]}...", fontsize="xx-small")
        for kind in ("svg", "pdf"):
            canvas.savefig(folder / f"{figure.file}.{kind}")
        pyplot.close(canvas)
    return None


def _divide(fits: Sequence[FamilyFit], runs: Sequence[Result], factor: str, others: Sequence[str]) -> list[Series]:
    """Return one series for each family and level of what is held fixed."""
    groups: dict[tuple[object, ...], list[Result]] = {}
    for run in runs:
        key = tuple(getattr(run, name) for name in others if len({getattr(each, name) for each in runs}) > 1)
        groups.setdefault((run.family, *key), []).append(run)
    series = []
    for (family, *levels), group in sorted(groups.items(), key=str):
        names = [name for name in others if len({getattr(each, name) for each in runs}) > 1]
        label = ", ".join(
            [str(family)] * bool(family)
            + [f"{name} {shorten(float(str(level)))}" for name, level in zip(names, levels, strict=True)]
        )
        curve_x, curve_y = _trace(fits, group, factor)
        ordered = sorted(group, key=lambda run: float(getattr(run, factor)))
        series.append(
            Series(
                label=label or "runs",
                x=tuple(float(getattr(run, factor)) for run in ordered),
                y=tuple(run.value for run in ordered if run.value is not None),
                names=tuple(f"{run.name}: {run.value:.4g}" for run in ordered),
                is_held_out=tuple(run.is_held_out for run in ordered),
                curve_x=curve_x,
                curve_y=curve_y,
            )
        )
    return series


def _trace(
    fits: Sequence[FamilyFit], group: Sequence[Result], factor: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the law's curve through a group's range, nothing where the law does not speak of the factor."""
    found = next((each.fit for each in fits if each.family == group[0].family), None)
    values = [float(getattr(run, factor)) for run in group]
    if found is None or factor not in found.law.factors or min(values) == max(values):
        return (), ()
    at = np.geomspace(min(values), max(values), 40).tolist()
    fixed = {name: float(getattr(group[0], name)) for name in ("N", "U", "T", "C")}
    return tuple(at), tuple(found.predict({**fixed, factor: value}) for value in at)

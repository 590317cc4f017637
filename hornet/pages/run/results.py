"""What evaluations by themselves found of a run: each set, size, crop and kind of weights, and corrupted images."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hornet.pages.html import Section, join, render, render_table
from hornet.pages.run.files import RunFiles
from hornet.runs.rows import Row, number

NUM_ROWS = 200
NUM_BYTES = 1_000_000
"""Of a figure; a larger one is none of ours."""

TABLES = """\
<div class="card">{{ results }}</div>
{% if corruptions %}
<br><div class="card"><h3>Corrupted images</h3>{{ corruptions }}</div>
{% endif %}
{% if figures %}
<br><div class="images">{{ figures }}</div>
{% endif %}
"""

FIGURE = """\
<figure class="card"><img alt="{{ text }}" loading="lazy" src="{{ address }}">
<figcaption>{{ text }}</figcaption></figure>
"""


def render_results(files: RunFiles) -> Section | None:
    """Render the tables and figures of all evaluations; None without any."""
    rows = [(name, found, row) for name, found in files.suite.items() for row in _list(found, "results")]
    if not rows:
        return None
    shown = [
        [
            name,
            *_describe_view(found, row),
            _show(row.get("top1")),
            _show(row.get("top5")),
            _show(row.get("loss"), digits=4),
            _show(row.get("calibration_error"), factor=100),
            _show(row.get("mean_class_top1")),
            _show(_object(row.get("real")).get("top1")),
            _show(row.get("num_images"), digits=0),
        ]
        for name, found, row in rows
        if row.get("corruption") is None
    ]
    head = ["set", "weights", "step", "pixels", "crop", "top-1 %", "top-5 %", "loss", "ECE %", "mean of classes %"]
    table = render_table([*head, "ReaL top-1 %", "images"], shown[:NUM_ROWS], num_texts=2)
    corrupted = list(_list_corruptions(files.suite))
    means = ["set", "weights", "step", "pixels", "crop", "mean error %", "mCE", "worst", "error %"]
    figures = [_render_figure(files.path, name) for name in files.suite]
    num_sets = len({str(_object(found.get("question")).get("set", name)) for name, found in files.suite.items()})
    more = f" The first {NUM_ROWS} of {len(shown):,}." if len(shown) > NUM_ROWS else ""
    return Section(
        id="results",
        name="Evaluations",
        title=f"Evaluations on {num_sets} set{'' if num_sets == 1 else 's'}",
        note=f"By launch/evaluate.py; all of it, each class included, is in evaluations/.{more}",
        body=render(
            TABLES,
            results=table,
            corruptions=render_table(means, corrupted[:NUM_ROWS], num_texts=2) if corrupted else "",
            figures=join(figure for figure in figures if figure is not None),
        ),
    )


def _list_corruptions(suite: Mapping[str, Row]) -> Iterator[list[str]]:
    """Yield a row for each set, weights, size and crop: the means, and the corruption that does most harm."""
    for name, found in suite.items():
        for row in _list(found, "corruptions"):
            errors = {
                str(kind): [value for each in values if (value := number(each)) is not None]
                for kind, values in _object(row.get("errors")).items()
                if isinstance(values, list)
            }
            means = {kind: sum(values) / len(values) for kind, values in errors.items() if values}
            worst = max(means, key=lambda kind: means[kind], default="")
            made = " (made here)" if found.get("departures") else ""
            yield [
                f"{name}{made}",
                *_describe_view(found, row),
                *(_show(row.get(key)) for key in ("mean_error", "mce")),
                worst,
                _show(means.get(worst), factor=100),
            ]


def _describe_view(found: Row, row: Row) -> list[str]:
    crop = "warped" if row.get("crop_fraction", 0) is None else _show(row.get("crop_fraction"), digits=None)
    return [str(row.get("weights")), _show(found.get("step"), digits=0), _show(row.get("image_size"), digits=0), crop]


def _render_figure(run: Path, name: str) -> Any:
    """Embed evaluation.svg as an image, in which nothing runs; None if it is not there."""
    with suppress(OSError):
        content = (run / "evaluations" / name / "evaluation.svg").read_bytes()
        if len(content) <= NUM_BYTES:
            address = "data:image/svg+xml;base64," + base64.b64encode(content).decode()
            return render(FIGURE, text=name, address=address)
    return None


def _list(found: Row, key: str) -> list[Row]:
    rows = found.get(key)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _show(value: Any, *, factor: float = 1, digits: int | None = 2) -> str:
    """Return a number with so many decimals, or as few as it needs; nothing for what is none."""
    found = number(value)
    if found is None:
        return ""
    return f"{factor * found:g}" if digits is None else f"{factor * found:,.{digits}f}"

"""Which curves the page of a run has."""

from __future__ import annotations

from collections.abc import Sequence

from hornet.pages.html import Section, join, render
from hornet.pages.run.curves import Chart, Mark, Values, render_chart
from hornet.pages.run.files import RunFiles
from hornet.pages.run.timing import PHASES
from hornet.runs.attempts import Attempt
from hornet.runs.rows import Row, column, number

CHARTS = """<div class="charts">{{ charts }}</div>"""


def render_curves(files: RunFiles, attempts: Sequence[Attempt], *, last_step: int) -> Section | None:
    """Render all curves there is something of, with restarts and dropped steps; None without any."""
    restarts = list_restarts(attempts, files.events)
    drops = [
        Mark(step=step, text=f"step {step:,.0f} dropped: {row.get('reason')}")
        for row in files.dropped_steps
        if (step := number(row.get("step"))) is not None
    ]
    charts = [*_chart_metrics(files.metrics), *_chart_evaluations(files.evaluations), *_chart_norms(files.norms)]
    rendered = join(
        render_chart(
            chart,
            last_step=max(last_step, *chart.steps),
            restarts=restarts,
            drops=drops if chart.title in WITH_DROPS else (),
        )
        for chart in charts
        if chart.steps
    )
    if not rendered:
        return None
    notes = ["Point at a curve, or focus one and use the arrow keys: all show their values at that step."]
    if restarts:
        notes.append("Dashed lines: the run was started again, or went back.")
    if drops:
        notes.append(f"Red marks on loss and gradient norm: {len(drops)} dropped steps.")
    return Section(
        id="curves",
        name="Curves",
        title="Curves",
        note=" ".join(notes),
        body=render(CHARTS, charts=rendered),
    )


def list_restarts(attempts: Sequence[Attempt], events: Sequence[Row]) -> list[Mark]:
    """Return where attempts after the first began, and where the run went back by itself."""
    marks = [
        Mark(step=attempt.first_step, text=f"started again from step {attempt.first_step:,} ({number_} ranks)")
        for attempt in attempts[1:]
        if (number_ := attempt.num_ranks) is not None
    ]
    for event in events:
        to_step = number(event.get("to_step"))
        if event.get("event") == "rollback" and to_step is not None:
            marks.append(Mark(step=to_step, text=f"went back from step {event.get('step')} to {to_step:,.0f}"))
    return marks


LOSS, GRAD_NORM = "Training loss", "Gradient norm before clipping"
WITH_DROPS = (LOSS, GRAD_NORM)


def _chart_metrics(rows: list[Row]) -> list[Chart]:
    steps = [row["step"] for row in rows]
    seconds: dict[str, Values] = {name: column(rows, key) for key, name in PHASES.items()}
    seconds = {name: values for name, values in seconds.items() if any(value is not None for value in values)}
    seconds["whole step"] = column(rows, "step_seconds")
    memory = _scale(column(rows, "memory_bytes"), 1 / 2**30)
    mfu = _scale(column(rows, "mfu"), 100)
    slowest = column(rows, "slowest_over_median")
    return [
        Chart(title=LOSS, steps=steps, series={"loss": column(rows, "loss")}),
        Chart(title=GRAD_NORM, steps=steps, series={"norm": column(rows, "grad_norm")}),
        Chart(title="Learning rate", steps=steps, series={"lr": column(rows, "lr")}, may_be_log=False, from_zero=True),
        Chart(
            title="Throughput",
            steps=steps,
            series={"speed": column(rows, "images_per_second")},
            unit=" images/s",
            may_be_log=False,
            from_zero=True,
        ),
        Chart(title="Model FLOPs utilisation", steps=steps, series={"MFU": mfu}, unit=" %", from_zero=True),
        Chart(title="Time of a step", steps=steps, series=seconds, unit=" s", from_zero=True),
        Chart(title="Slowest rank", steps=steps, series={"busy time over the median rank's": slowest}),
        Chart(title="Peak memory of rank 0", steps=steps, series={"memory": memory}, unit=" GiB", from_zero=True),
    ]


def _chart_evaluations(rows: list[Row]) -> list[Chart]:
    steps = sorted({row["step"] for row in rows})
    found = {(str(row.get("weights")), row["step"]): row for row in rows}
    kinds = list(dict.fromkeys(kind for kind, _ in found))
    charts = []
    measures = (
        *(("top1", "Top-1", " %"), ("top5", "Top-5", " %")),
        *(("miou", "mIoU", " %"), ("macc", "mAcc", " %"), ("aacc", "aAcc", " %")),
        *(("mask_ap", "Mask AP", " %"), ("box_ap", "Box AP", " %")),
        ("loss", "Evaluation loss", ""),
    )
    for key, title, unit in [measure for measure in measures if any(measure[0] in row for row in rows)]:
        series = {f"{kind} weights": [number(found.get((kind, step), {}).get(key)) for step in steps] for kind in kinds}
        charts.append(Chart(title=title, steps=steps, series=series, unit=unit, may_be_log=not unit))
    return charts


def _chart_norms(rows: list[Row]) -> list[Chart]:
    whole = [row for row in rows if isinstance(row.get("parts"), dict)]
    steps = [row["step"] for row in whole]
    names = list(dict.fromkeys(name for row in whole for name in row["parts"]))
    titles = {
        "weight_norm": "Norm of the weights, by part",
        "grad_norm": "Norm of the gradient, by part",
        "layer_scale": "Mean magnitude of layer scales, by part",
    }
    charts = []
    for key, title in titles.items():
        series: dict[str, Values] = {name: [_of_part(row, name, key) for row in whole] for name in names}
        series = {name: values for name, values in series.items() if any(value is not None for value in values)}
        charts.append(Chart(title=title, steps=steps, series=series))
    return [chart for chart in charts if chart.series]


def _of_part(row: Row, name: str, key: str) -> float | None:
    part = row["parts"].get(name)
    return number(part.get(key)) if isinstance(part, dict) else None


def _scale(values: Sequence[float | None], factor: float) -> list[float | None]:
    return [None if value is None else value * factor for value in values]

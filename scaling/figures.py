"""What a study plots: results against each factor with the law's curves, the grid as a map, learning, predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from hornet.durable import read_json_lines
from hornet.quantities import shorten
from scaling.analysis import FamilyFit
from scaling.charts import Chart, Figure, HeatMap, Series
from scaling.config import Study
from scaling.fitting import Fit
from scaling.measurements import Array
from scaling.resampling import Resampled
from scaling.results import Result

AXIS_NAMES = {
    "N": "parameters without the classifier",
    "U": "unique images",
    "T": "images seen",
    "C": "training FLOPs",
}
CURVES_SHOWN = 8
"""Learning curves in one figure; more cannot be told apart."""


def make_figures(
    fits: Sequence[FamilyFit],
    results: Sequence[Result],
    *,
    metric: str,
    judged: Sequence[Mapping[str, Any]] = (),
    study: Study | None = None,
) -> list[Chart]:
    """Return all that these runs allow; learning curves with `study`, whose folder holds them."""
    runs = [run for run in results if run.stage == "pretrain"]
    missing = [run.name for run in runs if run.value is None]
    seeds = sorted({run.seed for run in runs})
    note = f"{len(runs) - len(missing)} of {len(runs)} runs, seeds {', '.join(map(str, seeds))}" + (
        f"; without a result: {', '.join(missing)}" if missing else ""
    )
    shown = [run for run in runs if run.value is not None]
    return [
        *_against_factors(fits, shown, metric=metric, note=note),
        *_map_grid(shown, metric=metric, note=note),
        *_compare_predictions(fits, judged, metric=metric, note=note),
        *([] if study is None else _make_learning_figures(study, shown, note=note)),
    ]


def _against_factors(fits: Sequence[FamilyFit], shown: Sequence[Result], *, metric: str, note: str) -> list[Figure]:
    figures = []
    for factor, others in (("N", ("U", "T")), ("U", ("N",)), ("T", ("N", "U")), ("C", ())):
        series = _divide(fits, shown, factor, _keep_free(shown, others))
        if not any(len(set(each.x)) > 1 for each in series):
            continue
        figures.append(
            Figure(
                file=f"{metric}_{factor}",
                title=f"{metric} against {AXIS_NAMES[factor]}",
                x_name="parameters" if factor == "N" else AXIS_NAMES[factor],
                y_name=metric,
                series=tuple(series),
                note=note,
            )
        )
    return figures


def _keep_free(runs: Sequence[Result], names: Sequence[str]) -> list[str]:
    """Return those that vary, without one that follows from those before it."""
    kept: list[str] = []
    for name in names:
        before = {tuple(getattr(run, other) for other in kept) for run in runs}
        if len({tuple(getattr(run, other) for other in (*kept, name)) for run in runs}) > len(before):
            kept.append(name)
    return kept


def _divide(fits: Sequence[FamilyFit], runs: Sequence[Result], factor: str, names: Sequence[str]) -> list[Series]:
    """Return one series for each family and level of what is held fixed."""
    groups: dict[tuple[str, tuple[float, ...]], list[Result]] = {}
    for run in runs:
        groups.setdefault((run.family, tuple(float(getattr(run, name)) for name in names)), []).append(run)
    series = []
    for (family, levels), group in sorted(groups.items()):
        parts = [f"{name} {shorten(level)}" for name, level in zip(names, levels, strict=True)]
        label = ", ".join([family] * bool(family) + parts)
        curve_x, curve_y, band = _trace(fits, group, factor)
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
                band=band,
            )
        )
    return series


def _trace(
    fits: Sequence[FamilyFit], group: Sequence[Result], factor: str
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[tuple[float, float], ...]]:
    """Return the law's curve through a group's range with its interval.

    Nothing where it does not know the factor, or knows another one that is not the same in the whole group.
    """
    found = next((each for each in fits if each.family == group[0].family), None)
    values = [float(getattr(run, factor)) for run in group]
    if found is None or found.fit is None or factor not in found.fit.law.factors or min(values) == max(values):
        return (), (), ()
    if any(len({getattr(run, name) for run in group}) > 1 for name in found.fit.law.factors if name != factor):
        return (), (), ()
    at = np.geomspace(min(values), max(values), 40).tolist()
    fixed = {name: float(getattr(group[0], name)) for name in AXIS_NAMES}
    points = [{**fixed, factor: value} for value in at]
    band = () if found.resampled is None else _find_band(found.resampled, points)
    return tuple(at), tuple(found.fit.predict(point) for point in points), band


def _find_band(resampled: Resampled, points: Sequence[Mapping[str, float]]) -> tuple[tuple[float, float], ...]:
    values: Array = resampled.predict(points)
    low, high = np.quantile(values, [(1 - resampled.level) / 2, (1 + resampled.level) / 2], axis=0)
    return tuple(zip(low.tolist(), high.tolist(), strict=True))


def _map_grid(shown: Sequence[Result], *, metric: str, note: str) -> list[HeatMap]:
    """Return a map of sizes and shares for each family, means over seeds of the longest runs."""
    maps = []
    for family in dict.fromkeys(run.family for run in shown):
        mine = [run for run in shown if run.family == family]
        sizes = [size for _, size in sorted({(run.N, run.size) for run in mine})]
        shares = sorted({run.fraction for run in mine})
        if len(sizes) < 2 or len(shares) < 2:
            continue
        rows = [[_mean_of_longest(mine, size, share) for share in shares] for size in sizes]
        maps.append(
            HeatMap(
                file=f"{metric}_map_{family or 'all'}",
                title=f"{metric}{' of ' * bool(family)}{family}: sizes and shares of the images",
                rows=tuple(size or "the network" for size in sizes),
                columns=tuple(f"{share:g}" for share in shares),
                values=tuple(tuple(row) for row in rows),
                note=note,
            )
        )
    return maps


def _mean_of_longest(runs: Sequence[Result], size: str, fraction: float) -> float | None:
    inside = [run for run in runs if (run.size, run.fraction) == (size, fraction)]
    longest = max((run.T for run in inside), default=0)
    values = [run.value for run in inside if longest == run.T and run.value is not None]
    return fmean(values) if values else None


def _compare_predictions(
    fits: Sequence[FamilyFit], judged: Sequence[Mapping[str, Any]], *, metric: str, note: str
) -> list[Figure]:
    """Return what came against what the law says: cells that it has seen, and those that were foretold, open."""
    series = [_fitted_points(each.fit, each.family) for each in fits if each.fit is not None]
    came = [each for each in judged if each["measured"] is not None]
    if came:
        has_intervals = all(each["low"] is not None for each in came)
        series.append(
            Series(
                label="foretold, then measured",
                x=tuple(each["measured"] for each in came),
                y=tuple(each["value"] for each in came),
                names=tuple(f"{each['name']}: foretold {each['value']:.4g}" for each in came),
                is_held_out=(True,) * len(came),
                errors=tuple((each["low"], each["high"]) for each in came) if has_intervals else (),
            )
        )
    if not series:
        return []
    return [
        Figure(
            file=f"{metric}_foretold",
            title=f"{metric} by the law against {metric} measured",
            x_name="measured",
            y_name="by the law",
            series=tuple(series),
            note=note,
            has_diagonal=True,
        )
    ]


def _fitted_points(fitted: Fit, family: str) -> Series:
    cells = fitted.cells
    factors = [dict(zip(cells.factor_names, row, strict=True)) for row in np.exp(cells.log_x).tolist()]
    means = np.nanmean(cells.values, axis=1).tolist()
    return Series(
        label=f"{family or 'cells'}, in the fit",
        x=tuple(means),
        y=tuple(fitted.predict(each) for each in factors),
        names=tuple(f"{names[0]}: {mean:.4g}" for names, mean in zip(cells.names, means, strict=True)),
        is_held_out=(False,) * len(means),
    )


def _make_learning_figures(study: Study, shown: Sequence[Result], *, note: str) -> list[Figure]:
    """Return the training loss along the run, of each family's sizes on all images, with the first seed."""
    largest = max((run.fraction for run in shown), default=1.0)
    chosen: dict[tuple[str, str], Result] = {}
    for run in sorted(shown, key=lambda each: (each.family, each.N, each.seed, -each.T)):
        if run.fraction == largest:
            chosen.setdefault((run.family, run.size), run)
    series = []
    for run in list(chosen.values())[:CURVES_SHOWN]:
        rows = [row for row in read_json_lines(study.folder / run.name / "metrics.jsonl") if row.get("loss")]
        if len(rows) > 1:
            series.append(
                Series(
                    label=f"{run.family} {run.size}".strip() or "run",
                    curve_x=tuple(float(row["images_seen"]) for row in rows),
                    curve_y=tuple(float(row["loss"]) for row in rows),
                )
            )
    if not series:
        return []
    left_out = max(0, len(chosen) - CURVES_SHOWN)
    remark = f"; {left_out} more networks are not shown" if left_out else ""
    return [
        Figure(
            file="learning",
            title="training loss, with augmentation and label smoothing",
            x_name="images seen",
            y_name="training loss",
            series=tuple(series),
            note=f"the first seed of each network, {largest:g} of the images{remark}; {note}",
            is_x_log=False,
        )
    ]

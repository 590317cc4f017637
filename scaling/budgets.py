"""What compute buys in a study: isoFLOP curves where runs share budgets, and the frontier of the joint law."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hornet.errors import UserError
from hornet.quantities import shorten
from scaling.analysis import FamilyFit
from scaling.charts import Figure, Series
from scaling.config import Study
from scaling.frontier import IsoFlops, find_frontier, fit_isoflops
from scaling.measurements import Measurement
from scaling.resampling import interval_of
from scaling.results import Result, list_measurements

SAME_BUDGET = 0.05
"""Share by which training FLOPs of one budget may differ."""
LEAST_SIZES = 3
NUM_BUDGETS = 5
"""Budgets of a frontier that are printed, over the range of the runs."""


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """A family's isoFLOP curves, and the runs that stand in them; `curves` is None where no budget has 3 sizes."""

    family: str
    curves: IsoFlops | None
    runs: tuple[Measurement, ...]
    """Their factor C is their budget's."""


def find_budgets(results: Sequence[Result]) -> list[Budgets]:
    """Return the isoFLOP curves of each family."""
    found = []
    for family in dict.fromkeys(run.family for run in results if run.stage == "pretrain"):
        runs = [each for each in list_measurements([run for run in results if run.family == family]) if each.value]
        grouped = _group(runs)
        found.append(Budgets(family=family, curves=fit_isoflops(grouped) if grouped else None, runs=tuple(grouped)))
    return found


def _group(runs: Sequence[Measurement]) -> list[Measurement]:
    """Keep runs whose budget has at least 3 sizes, and let those of one budget have the same C.

    Of a budget whose sizes saw several shares of the images each, the largest share alone: others are no seeds of it.
    """
    ordered = sorted(runs, key=lambda each: each.factors["C"])
    budgets: list[list[Measurement]] = []
    for run in ordered:
        if budgets and run.factors["C"] <= budgets[-1][0].factors["C"] * (1 + SAME_BUDGET):
            budgets[-1].append(run)
        else:
            budgets.append([run])
    kept = []
    for budget in budgets:
        shares = {(run.factors["N"], run.factors["U"]) for run in budget}
        if len(shares) > len({size for size, _ in shares}):
            largest = max(unique for _, unique in shares)
            budget = [run for run in budget if run.factors["U"] == largest]
        if len({run.factors["N"] for run in budget}) >= LEAST_SIZES:
            compute = float(np.exp(np.mean([math.log(run.factors["C"]) for run in budget])))
            kept += [replace(run, factors={**run.factors, "C": compute}) for run in budget]
    return kept


def plot_budgets(found: Sequence[Budgets], *, metric: str) -> list[Figure]:
    """Return a figure of each family that has curves: values against size, minima as open circles."""
    figures = []
    for each in found:
        if each.curves is None:
            continue
        series = []
        for curve in each.curves.curves:
            runs = [run for run in each.runs if math.isclose(run.factors["C"], curve.budget, rel_tol=1e-9)]
            points = sorted((run.factors["N"], run.value or 0.0, run.name) for run in runs)
            has_minimum = math.isfinite(curve.best_size)
            series.append(
                Series(
                    label=f"{curve.budget:.2e} FLOPs",
                    x=(*(x for x, _, _ in points), *([curve.best_size] if has_minimum else [])),
                    y=(*(y for _, y, _ in points), *([curve.value] if has_minimum else [])),
                    names=(*(name for _, _, name in points), *(["minimum of the parabola"] if has_minimum else [])),
                    is_held_out=(*(False for _ in points), *([True] if has_minimum else [])),
                )
            )
        figures.append(
            Figure(
                file=f"isoflop_{each.family or 'all'}",
                title=f"{metric} at equal compute{', ' * bool(each.family)}{each.family}",
                x_name="parameters without the classifier",
                y_name=metric,
                series=tuple(series),
                note=f"{len(each.runs)} runs of {len(each.curves.curves)} budgets; {each.curves.warnings[0]}",
            )
        )
    return figures


def list_isoflop_rows(found: Sequence[Budgets]) -> list[tuple[str, ...]]:
    """Return family, budget, best size, value there, points, marks."""
    rows: list[tuple[str, ...]] = []
    for each in found:
        for curve in () if each.curves is None else each.curves.curves:
            best, value = "none", ""
            if math.isfinite(curve.best_size):
                best, value = shorten(curve.best_size), f"{curve.value:.4g}"
            marks = ", ".join(curve.marks) or "none"
            rows.append((each.family or "all", f"{curve.budget:.2e}", best, value, str(curve.num_points), marks))
    return rows


def describe_budgets(
    study: Study, found: Sequence[Budgets], fits: Sequence[FamilyFit], results: Sequence[Result]
) -> list[str]:
    """Return what a reader should know of compute, in sentences."""
    lines = []
    for each in found:
        name = each.family or "the network"
        if each.curves is None:
            lines.append(
                f"No budget of {name} has {LEAST_SIZES} sizes within {SAME_BUDGET:.0%} of the same training FLOPs: "
                "no isoFLOP curve."
            )
            continue
        slope = f"best size goes as C^{each.curves.exponent:.3g}" if math.isfinite(each.curves.exponent) else "no line"
        lines.append(f"IsoFLOP curves of {name}: {slope}; {'; '.join(each.curves.warnings)}.")
    knows_length = any(each.fit is not None and "T" in each.fit.law.factors for each in fits)
    if study.config.fit.data == "U" and not knows_length:
        lines.append("Data are unique images here, which cost no compute by themselves: the laws have no frontier.")
    else:
        lines += [_describe_frontier(each, results) for each in fits if each.fit is not None]
    return lines


def _describe_frontier(found: FamilyFit, results: Sequence[Result]) -> str:
    assert found.fit is not None
    runs = [run for run in results if run.family == found.family and run.stage == "pretrain" and run.value is not None]
    per_unit = float(np.exp(np.mean([math.log(run.C / (run.N * run.T)) for run in runs])))
    budgets = np.geomspace(min(run.C for run in runs), max(run.C for run in runs), NUM_BUDGETS).tolist()
    name = found.family or "the network"
    interval = "no interval"
    try:
        frontier = find_frontier(found.fit, budgets, flops_per_unit=per_unit)
        if found.resampled is not None:
            sampled = find_frontier(found.fit, budgets, flops_per_unit=per_unit, theta=found.resampled.theta).exponent
            pair = interval_of(sampled, level=found.resampled.level)
            interval = f"{pair.low:.3g} to {pair.high:.3g}"
    except UserError as error:
        return f"No frontier of {name}: {error}."
    points = []
    for budget, size, data, value in zip(budgets, frontier.size[0], frontier.data[0], frontier.value[0], strict=True):
        is_inside = min(run.N for run in runs) <= size <= max(run.N for run in runs)
        is_inside &= min(run.T for run in runs) <= data <= max(run.T for run in runs)
        beyond = "" if is_inside else "; beyond what was run"
        points.append(f"{budget:.2g} FLOPs: {shorten(size)} and {shorten(data)} images ({value:.4g}{beyond})")
    slope = f"size as C^{frontier.exponent[0]:.3g} ({interval})"
    return f"Best division by the law of {name}, C = {per_unit:.3g} N T, {slope}: {', '.join(points)}."

"""What compute buys: the best size for each budget, from the joint law or from isoFLOP curves.

The joint law's frontier is a closed form. The parabolas of isoFLOP curves are a second opinion, and a biased one where
curves are asymmetric or their grid is off centre (Open-Athena's scaling-law-analysis shows by how much); they come
with marks that say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hornet.errors import UserError
from scaling.fitting import Fit
from scaling.measurements import Array, Measurement, gather

OFF_CENTRE = 0.25
"""Share of the grid's range by which a minimum may lie beside the middle of its grid."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Frontier:
    """The best division of each budget, for R sets of parameters (R, budgets)."""

    size: Array
    data: Array
    value: Array
    exponent: Array
    """(R,): a in size = const C^a; 1 - a is that of the data."""


@dataclass(frozen=True, kw_only=True)
class IsoFlop:
    """The parabola of one budget."""

    budget: float
    best_size: float
    """NaN where there is no minimum."""
    value: float
    num_points: int
    marks: tuple[str, ...]
    """Of: edge, off-centre, fewer than 2 points on a side, no minimum."""


@dataclass(frozen=True, kw_only=True)
class IsoFlops:
    """All budgets, and the line through their minima."""

    curves: tuple[IsoFlop, ...]
    exponent: float
    """a in size = const C^a, of the curves without marks of missing minima; NaN below two of them."""
    warnings: tuple[str, ...]


def find_frontier(fit: Fit, budgets: Sequence[float], *, flops_per_unit: float, theta: Array | None = None) -> Frontier:
    """Minimise a law of two terms under C = k size data, with k measured (6 for language models; not for these).

    `theta` (R, p) are resamples; without, the estimate alone. A bounded law, and one that raises its sum of terms to
    a power, have the frontier of that sum.
    """
    law = fit.law
    if [[power[0] for power in powers] for _, powers in law.terms] != [[0], [1]] or len(law.factors) != 2:
        raise UserError(f"{law.name} has no frontier in closed form; chinchilla, bounded_joint and kaplan have one")
    sets = fit.theta[None] if theta is None else theta
    found = law.in_user_units(sets, fit.units)
    (a, ((_, alpha_name, _),)), (b, ((_, beta_name, _),)) = law.terms
    alpha, beta = law.exponents_of_terms(found)
    if np.any(fit.parameters[alpha_name] <= 0) or np.any(fit.parameters[beta_name] <= 0):
        raise UserError(f"{alpha_name} and {beta_name} must be positive: without, more of one factor is never better")
    with np.errstate(divide="ignore", invalid="ignore"):  # resamples may have none; they become NaN
        share = beta / (alpha + beta)
        log_g = np.log(alpha * found[a] / (beta * found[b])) / (alpha + beta)
    product = np.asarray(budgets, dtype=np.float64)[None] / flops_per_unit
    size = np.exp(log_g)[:, None] * product ** share[:, None]
    data = product / size
    z = np.log(np.stack([size, data], axis=-1)) - fit.units.centres
    value, _ = law.evaluate(sets, z)
    return Frontier(size=size, data=data, value=value * fit.units.scale, exponent=share)


def fit_isoflops(measurements: Sequence[Measurement]) -> IsoFlops:
    """Fit a parabola in log size (N) for each budget (C); runs of a budget have the same number there."""
    cells = gather(measurements, ("C", "N"))
    means = np.nanmean(cells.values, axis=1)
    curves = []
    for level in np.unique(cells.log_x[:, 0]):
        at = cells.log_x[:, 0] == level
        curves.append(_fit_parabola(float(np.exp(level)), cells.log_x[at, 1], means[at]))
    usable = [curve for curve in curves if not {"no minimum", "edge"} & set(curve.marks)]
    exponent = float("nan")
    if len(usable) >= 2:
        logs = np.log([[curve.budget, curve.best_size] for curve in usable])
        exponent = float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])
    return IsoFlops(curves=tuple(curves), exponent=exponent, warnings=_warn(curves, usable))


def _fit_parabola(budget: float, log_size: Array, values: Array) -> IsoFlop:
    middle = log_size.mean()
    num = len(np.unique(log_size))
    if num < 3:
        return IsoFlop(budget=budget, best_size=float("nan"), value=float("nan"), num_points=num, marks=("no minimum",))
    curvature, slope, level = np.polyfit(log_size - middle, values, 2)
    if curvature <= 0:
        return IsoFlop(budget=budget, best_size=float("nan"), value=float("nan"), num_points=num, marks=("no minimum",))
    best = -slope / (2 * curvature)
    low, high = log_size.min() - middle, log_size.max() - middle
    marks = []
    if not low < best < high:
        marks.append("edge")
    if abs(best - (low + high) / 2) > OFF_CENTRE * (high - low):
        marks.append("off-centre")
    if min((log_size - middle < best).sum(), (log_size - middle > best).sum()) < 2:
        marks.append("fewer than 2 points on a side")
    return IsoFlop(
        budget=budget,
        best_size=float(np.exp(best + middle)),
        value=float(level - curvature * best**2),
        num_points=num,
        marks=tuple(marks),
    )


def _warn(curves: Sequence[IsoFlop], usable: Sequence[IsoFlop]) -> tuple[str, ...]:
    found = ["parabolas are biased where the law is asymmetric (alpha and beta differ); read the joint law first"]
    if left_out := [f"{curve.budget:g}" for curve in curves if curve not in usable]:
        found.append(f"budgets without a minimum inside their grid, left out of the line: {', '.join(left_out)}")
    if off := [f"{curve.budget:g}" for curve in usable if curve.marks]:
        found.append(f"budgets whose grid is off centre or thin on a side, so their minima lean: {', '.join(off)}")
    if len(usable) < 3:
        found.append(f"{len(usable)} usable budgets: no line can be judged by its points")
    return tuple(found)

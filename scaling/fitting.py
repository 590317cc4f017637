"""Fitting a law to cells, with proof that the fit is one.

Two stages: the shape by a search in which the linear parameters follow from non-negative least squares (variable
projection), then from its best and from quasi-random starts the objective itself, all at once; scipy ends it. Between
rounds the noise is estimated again, because residuals are divided by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import nnls
from scipy.stats import qmc

from hornet.errors import UserError
from scaling.law import Law, Units
from scaling.measurements import Array, Cells, Measurement, gather
from scaling.noise import Noise, estimate_sigma, estimate_tau
from scaling.proof import Flag, Proof, find_flags, prove
from scaling.solver import Problem, descend, polish

NUM_PROJECTED, NUM_KEPT = (32, 128, 256), 5
"""Shapes of the search for one, two, more exponents; how many of them are starts of the second stage."""
NUM_ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class Estimation:
    """What is minimised: the sum over cells of Huber's function of residual / noise. Reports state it."""

    residual: Literal["log", "plain"] = "log"
    huber: float | None = 1.345
    """In units of the noise; 1.345 loses 5 % where errors are normal. None: least squares."""
    noise: Literal["estimated", "unit"] = "estimated"
    """"unit": residuals are not divided, so that `huber` is in their own units, as in papers on language models."""
    num_starts: int = 20
    """Quasi-random starts, beside the 5 of the search."""

    def __str__(self) -> str:
        """Say it as a page prints it."""
        kind = "log value" if self.residual == "log" else "value"
        scale = "estimated noise" if self.noise == "estimated" else "1"
        loss = "least squares" if self.huber is None else f"Huber {self.huber:g}"
        return f"{loss} of the {kind}'s residual / {scale}, summed over cells; {self.num_starts} + {NUM_KEPT} starts"


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """A law's parameters for these cells, and how far they can be trusted."""

    law: Law
    cells: Cells
    estimation: Estimation
    units: Units
    theta: Array
    """(p,), in the law's own coordinates."""
    noise: Noise
    sd: Array
    """(n,): what each cell's residual was divided by."""
    objective: float
    residuals: Array
    """(n,): measured minus fitted, of log y or y."""
    proof: Proof
    flags: tuple[Flag, ...]

    @property
    def parameters(self) -> dict[str, float]:
        """By name, as they stand in the law's formula."""
        found = self.law.in_user_units(self.theta[None], self.units)
        return {name: float(values[0]) for name, values in found.items()}

    def predict(self, factors: Mapping[str, float]) -> float:
        """Evaluate the law at these factors."""
        return float(evaluate(self, self.theta[None], [factors])[0, 0])

    def terms(self, factors: Mapping[str, float]) -> dict[str, float]:
        """Each term, by its amplitude's name: where B's is the larger, more data help more than a larger network."""
        logs, _ = self.law.log_terms(self.theta[None], locate(self.law, self.units, [factors])[None])
        unit = self.law.unit_of_terms(self.theta[None], self.units)[0]
        return {name: float(np.exp(logs[k, 0, 0]) * unit) for k, name in enumerate(self.law.amplitudes)}

    @property
    def aicc(self) -> float:
        """Akaike's criterion for few data, of the residuals; to be read beside held-out errors, never alone."""
        n, k = len(self.cells), len(self.theta) + 1
        likelihood = n * np.log(np.mean(self.residuals**2) + 1e-300)
        return float(likelihood + 2 * k + (2 * k * (k + 1) / (n - k - 1) if n > k + 1 else np.inf))


def fit(
    measurements: Sequence[Measurement],
    law: Law,
    *,
    estimation: Estimation | None = None,
    starts: Sequence[Mapping[str, float]] = (),
) -> Fit:
    """Fit a law to runs of one family.

    Raises:
        UserError: fewer cells than parameters and one, several families, or data that `gather` refuses.

    """
    return fit_cells(gather(measurements, law.factors), law, estimation=estimation, starts=starts)


def fit_cells(
    cells: Cells, law: Law, *, estimation: Estimation | None = None, starts: Sequence[Mapping[str, float]] = ()
) -> Fit:
    """As `fit`, of gathered cells. `starts` are tried beside the others: a published result, say."""
    asked = estimation or Estimation()
    num_parameters = law.num_parameters
    if len(cells) <= num_parameters:
        raise UserError(
            f"{law.name} has {num_parameters} parameters and needs more cells than that; there are {len(cells)}"
        )
    if len(set(cells.families)) > 1:
        raise UserError(f"a law is of one family; fit {', '.join(sorted(set(cells.families)))} apart, or compare them")
    runs = cells.values if asked.residual == "plain" else np.log(cells.values)
    means = np.nanmean(runs, axis=1)
    y = means if asked.residual == "plain" else np.exp(means)
    units = law.units(cells.log_x, y)
    z = cells.log_x - units.centres
    own = [law.in_own_units(each, units) for each in starts]
    theta = np.vstack([*own, *_project(law, z, y / units.scale), *_scatter(law, y / units.scale, asked.num_starts)])
    sigma = estimate_sigma(runs)
    unit = units.scale if asked.residual == "plain" else 1.0
    spread = Noise(sigma=sigma, tau=0.0 if sigma else unit * _spread(law, z, y / units.scale, theta))
    rounds = NUM_ROUNDS if asked.noise == "estimated" else 1
    for turn in range(rounds):
        sd = spread.of_cells(cells.num_runs) if asked.noise == "estimated" else np.ones(len(cells))
        problem = make_problem(law, units, asked, log_x=cells.log_x[None], means=means[None], sd=sd[None])
        theta, costs = descend(problem, theta)
        best = theta[np.argmin(costs)]
        if turn + 1 < rounds or asked.noise == "unit":
            spread = _measure(problem, best, sd=sd, sigma=sigma, cells=cells)
    ends, costs = _finish(problem, theta, costs)
    best = ends[np.argmin(costs)]
    residuals = -problem.residuals(best[None])[0][0] * sd
    proof = prove(problem, ends, costs)
    flags = find_flags(law, cells, problem, proof, noise=spread, sd=sd, theta=best)
    return Fit(
        law=law, cells=cells, estimation=asked, units=units, theta=best, noise=spread, sd=sd,
        objective=float(costs.min()), residuals=residuals, proof=proof, flags=flags,
    )  # fmt: skip


def make_problem(law: Law, units: Units, estimation: Estimation, *, log_x: Array, means: Array, sd: Array) -> Problem:
    """(R or 1, n, f), (R or 1, n), (R or 1, n): means are of log y, or of y, as `estimation` has it."""
    is_log = estimation.residual == "log"
    return Problem(
        law=law,
        z=log_x - units.centres,
        target=means - np.log(units.scale) if is_log else means / units.scale,
        sd=sd if is_log else sd / units.scale,
        is_log=is_log,
        huber=estimation.huber,
    )


def locate(law: Law, units: Units, points: Sequence[Mapping[str, float]]) -> Array:
    """Factors of m points -> z (m, f)."""
    for point in points:
        if missing := [name for name in law.factors if name not in point]:
            raise UserError(f"{law.name} needs {', '.join(law.factors)} of each point; {missing[0]} is missing")
    return np.log([[point[name] for name in law.factors] for point in points]) - units.centres


def evaluate(fitted: Fit, theta: Array, points: Sequence[Mapping[str, float]]) -> Array:
    """(R, p) -> values (R, m) at m points."""
    y, _ = fitted.law.evaluate(theta, locate(fitted.law, fitted.units, points)[None])
    return y * fitted.units.scale


def _project(law: Law, z: Array, y: Array) -> list[Array]:
    """Search: shapes from a Sobol sequence, each with its non-negative floor and amplitudes."""
    limits = np.array([law.shape_starts(name) for name in law.shape])
    num = NUM_PROJECTED[min(len(law.shape), len(NUM_PROJECTED)) - 1]
    shapes = qmc.scale(qmc.Sobol(len(law.shape), seed=1).random(num), limits[:, 0], limits[:, 1])
    found: list[tuple[float, Array]] = []
    for shape in shapes:
        columns, target = law.columns(shape, z, y)
        size = np.maximum(np.linalg.norm(columns / target[:, None], axis=0), 1e-300)
        try:
            linear, rest = nnls(columns / target[:, None] / size, np.ones(len(y)))
        except RuntimeError:  # it counts its steps; another shape will do
            continue
        linear = linear / size
        first = int(law.has_floor)
        found.append((rest, np.concatenate([linear[:first], np.log(np.maximum(linear[first:], 1e-4)), shape])))
    return [theta for _, theta in sorted(found, key=lambda each: each[0])[:NUM_KEPT]]


def _scatter(law: Law, y: Array, num: int) -> Array:
    """Quasi-random starts (num, p): a floor below the data, terms of the data's size, any shape."""
    limits = [(0.0, float(y.min()))] if law.has_floor else []
    limits += [(-4.0, 1.0) for _ in law.amplitudes]
    limits += [law.shape_starts(name) for name in law.shape]
    low, high = np.array(limits).T
    if num == 0:
        return np.empty((0, len(low)))
    sobol = qmc.Sobol(len(low), seed=0).random(2 ** int(np.ceil(np.log2(num))))
    return np.asarray(qmc.scale(sobol[:num], low, high))


def _spread(law: Law, z: Array, y: Array, theta: Array) -> float:
    """Scale residuals for the first round, where no cell has two seeds: robust, about the best of the search."""
    log_y, _ = law.evaluate(theta, z[None])
    away = np.abs(np.log(np.maximum(log_y, 1e-300)) - np.log(y))
    return float(max(1.4826 * np.median(away, axis=1).min(), 1e-4))


def _measure(problem: Problem, theta: Array, *, sd: Array, sigma: float | None, cells: Cells) -> Noise:
    """Estimate tau from residuals that were divided by `sd` (n,), which is in the units of sigma."""
    residuals, slope = problem.residuals(theta[None])
    low, high = problem.law.bounds
    free = (theta > low) & (theta < high)
    tau = estimate_tau(residuals[0] * sd, slope[0][:, free] * sd[:, None], sigma=sigma, num_runs=cells.num_runs)
    return Noise(sigma=sigma, tau=tau)


def _finish(problem: Problem, theta: Array, costs: Array) -> tuple[Array, Array]:
    """Polish the best end; all come back, best first."""
    order = np.argsort(costs)
    theta, costs = theta[order].copy(), costs[order].copy()
    theta[0], costs[0] = polish(problem, theta[0])
    order = np.argsort(costs, kind="stable")
    return theta[order], costs[order]

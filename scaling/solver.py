"""Least squares for many starts or many resamples at once, and the last digits of one by scipy.

`descend` is Levenberg and Marquardt's method with bounds, batched in numpy over R problems of the same law: scipy has
no such thing, and a bootstrap one problem at a time would take minutes. What it finds for the data themselves is
finished, and judged, by scipy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, minimize

from scaling.law import Law
from scaling.measurements import Array

MAX_STEPS = 400


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """R sets of n points for one law; the objective is the SUM over points of Huber's function of the residual.

    With a mean, usual tolerances stop far from the minimum (docs/scaling.md).
    """

    law: Law
    z: Array
    """(R or 1, n, f)"""
    target: Array
    """(R or 1, n): log y, or y where residuals are not logarithmic; y in units of `Units.scale`."""
    sd: Array
    """(R or 1, n): residuals are divided by it."""
    is_log: bool
    huber: float | None
    """From where a residual counts linearly; None: least squares."""

    def residuals(self, theta: Array) -> tuple[Array, Array]:
        """(R, p) -> residuals (R, n) and their gradients (R, n, p)."""
        y, slope = self.law.evaluate(theta, self.z)
        if self.is_log:
            y = np.maximum(y, 1e-300)
            slope = slope / y[..., None]
            y = np.log(y)
        return (y - self.target) / self.sd, slope / self.sd[..., None]

    def costs(self, residuals: Array) -> Array:
        """(R, n) -> the objective (R,)."""
        size = np.abs(residuals)
        if self.huber is None:
            each: Array = 0.5 * size**2
        else:
            each = np.where(size <= self.huber, 0.5 * size**2, self.huber * (size - 0.5 * self.huber))
        return np.asarray(each.sum(axis=1))

    def weights(self, residuals: Array) -> Array:
        """(R, n): what is left of each residual's weight."""
        if self.huber is None:
            return np.ones_like(residuals)
        return self.huber / np.maximum(np.abs(residuals), self.huber)

    def pick(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> Problem:
        """Keep some of the R sets; those that are shared by all stay shared."""
        return replace(
            self,
            z=self.z[which] if len(self.z) > 1 else self.z,
            target=self.target[which] if len(self.target) > 1 else self.target,
            sd=self.sd[which] if len(self.sd) > 1 else self.sd,
        )


def descend(problem: Problem, starts: Array, *, damping: float = 1e-3) -> tuple[Array, Array]:
    """Go down from each start (R, p); return where it ended and the objectives (R,)."""
    low, high = problem.law.bounds
    theta = np.clip(starts, low, high)
    residuals, slope = problem.residuals(theta)
    cost = problem.costs(residuals)
    dampings = np.full(len(theta), damping)
    active = np.arange(len(theta))
    part = problem
    for _ in range(MAX_STEPS):
        step, promised = _propose(part, theta[active], residuals, slope, dampings[active])
        tried = np.clip(theta[active] + step, low, high)
        new_residuals, new_slope = part.residuals(tried)
        new_cost = part.costs(new_residuals)
        gain = cost[active] - new_cost
        is_last = promised <= 1e-15 * cost[active]
        better = (gain > 0) | is_last & (gain >= -1e-14 * cost[active])
        done = is_last | ~better & (dampings[active] > 1e10)
        theta[active[better]] = tried[better]
        cost[active[better]] = new_cost[better]
        residuals = np.where(better[:, None], new_residuals, residuals)
        slope = np.where(better[:, None, None], new_slope, slope)
        dampings[active] *= np.where(better, 0.2, 8.0)
        dampings[active] = np.maximum(dampings[active], 1e-12)
        if done.any():
            active, residuals, slope = active[~done], residuals[~done], slope[~done]
            part = problem.pick(active)
        if not len(active):
            break
    return theta, cost


def _propose(problem: Problem, theta: Array, residuals: Array, slope: Array, damping: Array) -> tuple[Array, Array]:
    """One step (R, p) of each problem, and what it promises to gain; parameters that would leave their bounds stay."""
    low, high = problem.law.bounds
    weighted = slope * problem.weights(residuals)[..., None]
    gradient = np.einsum("rnp,rn->rp", weighted, residuals)
    matrix = np.matmul(weighted.transpose(0, 2, 1), slope)
    held = (theta <= low) & (gradient > 0) | (theta >= high) & (gradient < 0)
    gradient = np.where(held, 0.0, gradient)
    matrix = np.where(held[:, :, None] | held[:, None, :], 0.0, matrix)
    diagonal = np.einsum("rpp->rp", matrix)
    floor = 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300
    extra = np.where(held, 1.0, damping[:, None] * diagonal + floor)
    matrix = matrix + extra[:, :, None] * np.eye(theta.shape[1])
    step = -np.linalg.solve(matrix, gradient[..., None])[..., 0]
    promised = -0.5 * np.einsum("rp,rp->r", gradient, step)
    return np.clip(step, -2.0, 2.0), promised  # logarithms and exponents: more is a leap in the dark


def polish(problem: Problem, theta: Array) -> tuple[Array, float]:
    """Find the last digits of one set by L-BFGS-B (ftol 1e-15, gtol 1e-12), in coordinates scaled by the curvature."""
    low, high = problem.law.bounds
    _, slope = problem.residuals(theta[None])
    size = np.maximum(np.linalg.norm(slope[0], axis=0), 1e-8)

    def objective(scaled: Array) -> tuple[float, Array]:
        residuals, gradients = problem.residuals((scaled / size)[None])
        by_theta = (gradients[0] * (problem.weights(residuals) * residuals)[0][:, None]).sum(axis=0)
        return float(problem.costs(residuals)[0]), by_theta / size

    options = {"ftol": 1e-15, "gtol": 1e-12, "maxiter": 5000, "maxfun": 20000, "maxcor": 30}
    bounds = Bounds(low * size, high * size)
    best, cost = np.clip(theta, low, high) * size, np.inf
    for _ in range(5):  # a new memory of curvatures, where the line search gave up
        found = minimize(objective, best, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        best, before, cost = found.x, cost, float(found.fun)
        if before - cost <= 1e-14 * cost:
            break
    finished, costs = descend(problem, (best / size)[None], damping=1e-10)
    return finished[0], float(costs[0])


def projected_gradient(problem: Problem, theta: Array) -> Array:
    """Compute the gradient (p,) at a point, without the directions that a bound closes, per unit of scaled parameter.

    In units of the objective for a parameter moved by what moves the residuals by 1 in all.
    """
    low, high = problem.law.bounds
    residuals, slope = problem.residuals(theta[None])
    size = np.maximum(np.linalg.norm(slope[0], axis=0), 1e-300)
    gradient = (slope[0] * (problem.weights(residuals) * residuals)[0][:, None]).sum(axis=0) / size
    held = (theta <= low) & (gradient > 0) | (theta >= high) & (gradient < 0)
    return np.where(held, 0.0, gradient)

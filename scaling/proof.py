"""Whether a fit is one: agreement of starts, gradient, condition, and flags for whoever reads it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import f as f_distribution

from scaling.law import Law
from scaling.measurements import Array, Cells
from scaling.noise import LEAST_SD, Noise
from scaling.solver import Problem, projected_gradient

LARGEST_CONDITION = 300.0
"""Of the matrix of gradients, its columns scaled to 1, about the centre of the data."""
LARGEST_GRADIENT = 1e-5
INDISTINGUISHABLE = 1.92
"""Half of chi-square's 95 % for one parameter: the data cannot tell objectives apart that differ by less."""
OTHER_PLACE = 0.1
"""Difference of an exponent, or of a logarithm, from which an end is another place."""
LEAST_LEVELS, LEAST_RANGE = 4, 10.0
OUTLYING = 3.5


@dataclass(frozen=True, kw_only=True)
class Flag:
    """Something a reader must know; `code` is one of those in docs/scaling.md."""

    code: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was seen of the optimum."""

    num_starts: int
    num_agreeing: int
    """Starts that ended at the best objective (to 1e-8 of it), their predictions within 1e-3 of the noise."""
    gradient: float
    """Largest component, where no bound holds it, as a cosine between residuals and a parameter's effect."""
    condition: float
    other_optimum: float | None
    """How much higher, in units of the noise, the objective of another end is that the data cannot tell apart."""


def prove(problem: Problem, ends: Array, costs: Array) -> Proof:
    """Look at the ends (S, p) of all starts, best first, and at the derivatives at the best."""
    residuals, slopes = problem.residuals(ends)
    weights = problem.weights(residuals[:1])[0]
    size = float(np.sqrt((weights * residuals[0] ** 2).sum()))
    variance = _variance(problem, residuals[0])
    same = np.abs(residuals - residuals[0]).max(axis=1) < 1e-3 * np.sqrt(variance)
    agreeing = (costs <= costs[0] * (1 + 1e-8) + 1e-6 * variance) & same
    above = (costs - costs[0]) / variance
    first = int(problem.law.has_floor)
    elsewhere = np.abs(ends - ends[0])[:, first:].max(axis=1) > OTHER_PLACE
    others = (above < INDISTINGUISHABLE) & elsewhere
    return Proof(
        num_starts=len(ends),
        num_agreeing=int(agreeing.sum()),
        gradient=float(np.abs(projected_gradient(problem, ends[0])).max() / max(size, 1e-3)),
        condition=_condition(problem, ends[0], slopes[0]),
        other_optimum=float(above[others].min()) if others.any() else None,
    )


def find_flags(
    law: Law, cells: Cells, problem: Problem, proof: Proof, *, noise: Noise, sd: Array, theta: Array
) -> tuple[Flag, ...]:
    """List all that speaks against taking the parameters at their word; `sd` (n,) is what residuals were divided by."""
    residuals, slope = problem.residuals(theta[None])
    found = [
        *_flag_optimum(law, proof, theta),
        *_flag_levels(law, cells),
        *_flag_identity(law, theta, slope[0], _variance(problem, residuals[0])),
        *_flag_misfit(cells, residuals[0], slope[0], noise),
        *_flag_outliers(cells, residuals[0], expected=float(np.median(noise.of_cells(cells.num_runs) / sd))),
    ]
    found += [_flag_mixed(cells, differing) for differing in dict.fromkeys(cells.differing) if differing]
    if cells.without_result:
        found.append(
            Flag(code="without_result", text=f"no result, so not in the fit: {', '.join(cells.without_result)}")
        )
    return tuple(found)


def _variance(problem: Problem, residuals: Array) -> float:
    """Compute what divides differences of the objective before chi-square is asked (Huber's: E psi^2 / E psi')."""
    freedom = max(len(residuals) - problem.law.num_parameters, 1)
    influence = problem.weights(residuals[None])[0] * residuals
    inner = (
        1.0 if problem.huber is None else max(float(np.mean(np.abs(residuals) <= problem.huber)), 1 / len(residuals))
    )
    least = (LEAST_SD / float(np.max(problem.sd))) ** 2
    return max(float((influence**2).sum() / freedom / inner), least)


def _condition(problem: Problem, theta: Array, slope: Array) -> float:
    low, high = problem.law.bounds
    columns = slope[:, (theta > low) & (theta < high)]
    size = np.linalg.norm(columns, axis=0)
    if not len(size) or size.min() == 0:
        return float("inf")
    values = np.linalg.svd(columns / size, compute_uv=False)
    return float(values[0] / max(values[-1], 1e-300))


def _flag_optimum(law: Law, proof: Proof, theta: Array) -> list[Flag]:
    found = []
    if proof.num_agreeing < 3 or proof.other_optimum is not None:
        other = "" if proof.other_optimum is None else "; another place is as good for these data"
        text = f"{proof.num_agreeing} of {proof.num_starts} starts end at the best objective{other}"
        found.append(Flag(code="multimodal", text=text))
    low, high = law.bounds
    held = [name for name, at in zip(law.parameters, (theta <= low) | (theta >= high), strict=True) if at]
    if held:
        found.append(Flag(code="at_bound", text=f"{', '.join(held)} at the end of what is allowed"))
    if proof.gradient > LARGEST_GRADIENT:
        found.append(Flag(code="not_converged", text=f"the gradient is {proof.gradient:.1e}, not 0"))
    if proof.condition > LARGEST_CONDITION:
        text = f"condition {proof.condition:.0f}: parameters stand for each other; read predictions, not exponents"
        found.append(Flag(code="ill_conditioned", text=text))
    return found


def _flag_levels(law: Law, cells: Cells) -> list[Flag]:
    found = []
    for index, factor in enumerate(law.factors):
        log_levels = np.unique(cells.log_x[:, index])
        ratio = float(np.exp(log_levels[-1] - log_levels[0]))
        if len(log_levels) < LEAST_LEVELS or ratio < LEAST_RANGE * (1 - 1e-9):
            text = f"{factor} has {len(log_levels)} levels over a factor of {ratio:.3g}: its exponent is not separable"
            found.append(Flag(code="too_few_levels", text=text))
    return found


def _flag_identity(law: Law, theta: Array, slope: Array, variance: float) -> list[Flag]:
    """Shapes whose linearised standard error leaves them open: an exponent's sign, a constant's order of magnitude."""
    low, high = law.bounds
    free = (theta > low) & (theta < high)
    covariance = variance * np.linalg.pinv(slope[:, free].T @ slope[:, free], rcond=1e-14, hermitian=True)
    errors = np.zeros(len(theta))
    errors[free] = np.sqrt(np.diag(covariance))
    found = []
    for name in law.shape:
        at = law.parameters.index(name)
        if name in law.logarithms and errors[at] > np.log(2):
            text = f"{name} is known to a factor of {np.exp(min(2 * errors[at], 99.0)):.2g} at best"
            found.append(Flag(code="not_identified", text=text))
        elif name not in law.logarithms and 2 * errors[at] > abs(theta[at]):
            text = f"{name} is {theta[at]:.2g} +- {2 * errors[at]:.2g}: even its sign is open"
            found.append(Flag(code="not_identified", text=text))
    return found


def _flag_misfit(cells: Cells, residuals: Array, slope: Array, noise: Noise) -> list[Flag]:
    found = []
    if noise.sigma is None:
        text = "no cell has two seeds: noise of runs and misfit of the law cannot be told apart"
        found.append(Flag(code="single_seeds", text=text))
    elif noise.tau > noise.sigma:
        text = f"cells are off the law by {noise.tau:.2g}, runs of a cell scatter by {noise.sigma:.2g}"
        found.append(Flag(code="lack_of_fit", text=text))
    if not any(flag.code == "lack_of_fit" for flag in found) and (chance := _bend(cells, residuals, slope)) < 0.01:
        text = f"residuals bend along the factors (p = {chance:.1g})"
        found.append(Flag(code="lack_of_fit", text=text))
    return found


def _flag_mixed(cells: Cells, differing: str) -> Flag:
    names = ["/".join(names) for names, each in zip(cells.names, cells.differing, strict=True) if each == differing]
    count = f"{len(names)} cell{'s' * (len(names) > 1)}"
    return Flag(code="mixed_cells", text=f"runs {differing} count as seeds: in {count}, first {names[0]}")


def _flag_outliers(cells: Cells, residuals: Array, *, expected: float) -> list[Flag]:
    """Name cells far from the law; nothing where most lie on it exactly, by their `expected` residual."""
    spread = 1.4826 * float(np.median(np.abs(residuals)))
    far = np.flatnonzero(np.abs(residuals) > OUTLYING * spread)
    if not len(far) or spread <= 1e-3 * expected:
        return []
    return [Flag(code="outlier", text=f"far from the law: {', '.join('/'.join(cells.names[index]) for index in far)}")]


def _bend(cells: Cells, residuals: Array, slope: Array) -> float:
    """Compute the F test's p of squares and products of log factors, beside the law's own directions."""
    z = cells.log_x - cells.log_x.mean(axis=0)
    z = z / np.maximum(z.std(axis=0), 1e-9)
    pairs = [z[:, i] * z[:, j] for i in range(z.shape[1]) for j in range(i, z.shape[1])]
    spread = 1.4826 * np.median(np.abs(residuals))
    clipped = np.clip(residuals, -3 * spread, 3 * spread)
    small, _ = np.linalg.qr(slope)
    large, _ = np.linalg.qr(np.column_stack([slope, *pairs]))
    extra, freedom = large.shape[1] - small.shape[1], len(residuals) - large.shape[1]
    if freedom < 3 or spread <= LEAST_SD:
        return 1.0
    rest = [float(((clipped - basis @ (basis.T @ clipped)) ** 2).sum()) for basis in (small, large)]
    return float(f_distribution.sf((rest[0] - rest[1]) / extra / (rest[1] / freedom), extra, freedom))

"""Intervals: the same fit to data sampled again, from cells first and then from the seeds of each.

`benchmarks/scaling_coverage.py` measures how often each way covers the truth. Resampling only seeds within cells is not
offered: it is blind to what the seeds of a cell share, and too narrow even without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hornet.errors import UserError
from scaling.fitting import Fit, evaluate, make_problem
from scaling.law import Law
from scaling.measurements import Array, Cells
from scaling.solver import descend

Scheme = Literal["cells_then_seeds", "runs", "cell_residuals"]
LEAST_CELLS = 12
CHUNK = 2_000_000
"""Points of all resamples that are fitted at once."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """From `low` to `high`, with probability `level`."""

    low: float
    high: float
    level: float

    def __contains__(self, number: float) -> bool:
        """Whether a number lies inside."""
        return self.low <= number <= self.high


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """Cells sampled R times: factors (R or 1, n, f), means of log y or y (R, n), standard deviations (R or 1, n)."""

    log_x: Array
    means: Array
    sd: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Resampled:
    """A fit and the parameters of R resamples."""

    fit: Fit
    theta: Array
    """(R, p): the parameters of each resample, as `Fit.theta` has them."""
    scheme: Scheme
    level: float
    seed: int

    def parameter(self, name: str) -> Interval:
        """Give the interval of a parameter, in the units of the data."""
        values = self.fit.law.in_user_units(self.theta, self.fit.units)
        if name not in values:
            raise UserError(f"{self.fit.law.name} has no parameter {name}; it has {', '.join(values)}")
        return interval_of(values[name], level=self.level)

    def predict(self, points: Sequence[Mapping[str, float]]) -> Array:
        """Values of the law (R, m) at m points, without the noise of a run."""
        return evaluate(self.fit, self.theta, points)

    def curve(self, factors: Mapping[str, float]) -> Interval:
        """Give the interval of the law's value at a point: of the curve, not of a run."""
        return interval_of(self.predict([factors])[:, 0], level=self.level)


def interval_of(values: Array, *, level: float) -> Interval:
    """Return the interval between the percentiles of `values` (R,) that leave out equal parts of 1 - level."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(low=float(low), high=float(high), level=level)


def resample(
    fit: Fit, *, scheme: Scheme = "cells_then_seeds", resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Resampled:
    """Fit again and again, each time from the estimate.

    Where runs have values of each validation image, the images are sampled too, once for all runs of a resample.

    Raises:
        UserError: fewer than 12 cells, from which no interval keeps its word.

    """
    check_number_of_cells(fit.cells)
    rng = np.random.default_rng(seed)
    sample = take_sample(fit, scheme=scheme, resamples=resamples, rng=rng)
    return Resampled(fit=fit, theta=refit(fit, sample), scheme=scheme, level=level, seed=seed)


def hold_images(resampled: Resampled) -> Resampled:
    """Sample again without the validation images, for what is measured on the very same ones."""
    fit = resampled.fit
    if fit.cells.image_values is None:
        return resampled
    same = replace(fit, cells=replace(fit.cells, image_values=None))
    return resample(
        same, scheme=resampled.scheme, resamples=len(resampled.theta), level=resampled.level, seed=resampled.seed
    )


def check_number_of_cells(cells: Cells) -> None:
    """Refuse too few cells with a sentence."""
    if len(cells) < LEAST_CELLS:
        raise UserError(f"{len(cells)} cells are too few for an interval: {LEAST_CELLS} are the least")


def refit(fit: Fit, sample: Sample) -> Array:
    """Fit all sets of a sample (R, p), beginning from the estimate."""
    num = len(sample.means)
    size = max(CHUNK // sample.means.shape[1], 1)
    ends = []
    for first in range(0, num, size):
        part = slice(first, first + size)
        problem = make_problem(
            fit.law,
            fit.units,
            fit.estimation,
            log_x=sample.log_x[part] if len(sample.log_x) > 1 else sample.log_x,
            means=sample.means[part],
            sd=sample.sd[part] if len(sample.sd) > 1 else sample.sd,
        )
        starts = np.repeat(fit.theta[None], len(problem.target), axis=0)
        ends.append(descend(problem, starts)[0])
    return np.concatenate(ends)


def take_sample(fit: Fit, *, scheme: Scheme, resamples: int, rng: np.random.Generator) -> Sample:
    """Sample R sets of data."""
    if scheme == "cell_residuals":
        return _sample_residuals(fit, resamples, rng)
    runs = values_of_runs(fit, resamples, rng)
    if scheme == "runs":
        return _sample_runs(fit, runs, resamples, rng)
    chosen = choose_cells(fit.cells, fit.law, resamples, rng)
    seeds = choose_seeds(fit.cells.num_runs[chosen], fit.cells.values.shape[1], rng)
    return Sample(log_x=fit.cells.log_x[chosen], means=average(runs, chosen, seeds), sd=fit.sd[chosen])


def values_of_runs(fit: Fit, resamples: int, rng: np.random.Generator) -> Array:
    """Values of runs (R or 1, n, m), each of the R sets from its own sample of validation images, if they are known."""
    cells = fit.cells
    if cells.image_values is None:
        values = cells.values[None]
    else:
        num_images = cells.image_values.shape[-1]
        shares = rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=resamples) / num_images
        images = np.nan_to_num(cells.image_values)
        sampled = np.einsum("nmi,ri->rnm", images, shares)
        # Of a sample without a missed image no logarithm is known: it has missed half a one.
        sampled = np.where(sampled > 0, sampled, 0.5 * images.max(axis=-1) / num_images)
        values = np.where(np.isnan(cells.values), np.nan, sampled)
        # Half precision, and a value that was computed otherwise: only the ratio of the two means is taken.
        values = values * (cells.values / cells.image_values.mean(axis=-1))
    return values if fit.estimation.residual == "plain" else np.log(values)


def choose_cells(cells: Cells, law: Law, resamples: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Sample indexes of cells (R, n), with replacement within each family; more distinct ones than parameters."""
    families = np.array(cells.families)
    strata = [np.flatnonzero(families == family) for family in dict.fromkeys(cells.families)]
    chosen = np.empty((resamples, len(cells)), dtype=np.int64)
    again = np.arange(resamples)
    for _ in range(1000):
        chosen[again] = np.concatenate([rng.choice(each, size=(len(again), len(each))) for each in strata], axis=1)
        ordered = np.sort(chosen, axis=1)
        distinct = 1 + (np.diff(ordered, axis=1) > 0).sum(axis=1)
        again = np.flatnonzero(distinct <= law.num_parameters)
        if not len(again):
            break
    return chosen


def choose_seeds(num_runs: NDArray[np.int64], width: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Sample for counts of runs (R, n) indexes of runs (R, n, width), -1 beyond a cell's count."""
    picked = (rng.random((*num_runs.shape, width)) * num_runs[..., None]).astype(np.int64)
    return np.where(np.arange(width) < num_runs[..., None], picked, -1)


def average(runs: Array, chosen: NDArray[np.int64], seeds: NDArray[np.int64]) -> Array:
    """Means (R, n) of the chosen runs of the chosen cells."""
    which = np.arange(len(chosen))[:, None, None] if len(runs) > 1 else np.zeros((1, 1, 1), dtype=np.int64)
    taken = runs[which, chosen[..., None], np.maximum(seeds, 0)]
    inside = seeds >= 0
    return np.asarray(np.where(inside, taken, 0.0).sum(axis=-1) / inside.sum(axis=-1))


def _sample_runs(fit: Fit, runs: Array, resamples: int, rng: np.random.Generator) -> Sample:
    """All runs are alike: each is a point of its own."""
    cell, column = np.nonzero(np.isfinite(fit.cells.values))
    picked = rng.integers(0, len(cell), (resamples, len(cell)))
    which = np.arange(resamples)[:, None] if len(runs) > 1 else np.zeros((1, 1), dtype=np.int64)
    means = runs[which, cell[picked], column[picked]]
    sd = fit.sd * np.sqrt(fit.cells.num_runs)  # the mean of n runs weighs n times a run
    return Sample(log_x=fit.cells.log_x[cell[picked]], means=means, sd=sd[cell[picked]])


def _sample_residuals(fit: Fit, resamples: int, rng: np.random.Generator) -> Sample:
    """Add to the law's value a residual of any cell, both in units of its noise, spread by sqrt(n / (n - p))."""
    cells = fit.cells
    n = len(cells)
    scaled = fit.residuals / fit.sd * np.sqrt(n / (n - fit.law.num_parameters))
    scaled = scaled - scaled.mean()
    runs = cells.values if fit.estimation.residual == "plain" else np.log(cells.values)
    fitted = np.nanmean(runs, axis=1) - fit.residuals
    means = fitted + fit.sd * scaled[rng.integers(0, n, (resamples, n))]
    return Sample(log_x=cells.log_x[None], means=means, sd=fit.sd[None])

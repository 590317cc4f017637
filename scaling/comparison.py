"""Two families of networks on the same data: their laws beside each other, and the interval of the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import f as f_distribution

from hornet.errors import UserError
from scaling.fitting import Estimation, Fit, fit_cells, make_problem
from scaling.law import Law, Units
from scaling.measurements import Array, Cells, Measurement, gather
from scaling.resampling import (
    Interval,
    Resampled,
    Sample,
    average,
    check_number_of_cells,
    choose_cells,
    choose_seeds,
    interval_of,
    refit,
    take_sample,
    values_of_runs,
)
from scaling.solver import Problem, descend, polish

Shared = Literal["nothing", "shape", "all"]


@dataclass(frozen=True, kw_only=True)
class PairedLaw(Law):
    """One law for two families, which share nothing, the shape (exponents), or all.

    The last column of z is the family, 0 or 1.
    """

    base: Law
    shared: Shared

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names; those that are not shared stand twice."""
        common = {"nothing": (), "shape": self.base.shape, "all": self.base.parameters}[self.shared]
        own = [name for name in self.base.parameters if name not in common]
        return (*(f"{name} of {family}" for family in (0, 1) for name in own), *common)

    @property
    def maps(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where each family's theta stands in the joint one."""
        at = {name: index for index, name in enumerate(self.parameters)}
        first, second = (
            np.array([at[name] if name in at else at[f"{name} of {family}"] for name in self.base.parameters])
            for family in (0, 1)
        )
        return first, second

    @property
    def bounds(self) -> Array:
        """See `Law.bounds`."""
        joint = np.empty((2, self.num_parameters))
        for at in self.maps:
            joint[:, at] = self.base.bounds
        return joint

    def evaluate(self, theta: Array, z: Array) -> tuple[Array, Array]:
        """See `Law.evaluate`."""
        is_second = z[..., -1] > 0.5
        shape = (len(theta), z.shape[1])
        y, slope = np.zeros(shape), np.zeros((*shape, theta.shape[1]))
        for family, at in enumerate(self.maps):
            own = is_second == bool(family)
            values, slopes = self.base.evaluate(theta[:, at], z[..., :-1])
            y += np.where(own, values, 0.0)
            slope[..., at] += np.where(own[..., None], slopes, 0.0)
        return y, slope


@dataclass(frozen=True, kw_only=True)
class SharingTest:
    """Whether the families may share parameters."""

    shared: Shared
    likelihood_ratio: float
    """Twice the difference of the objectives, in units of the noise."""
    freedom: int
    chance: float
    """The F test's p: small, if what is shared differs."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """log(second) - log(first) at a point of each: -0.05 is a second family that is 5 % better."""

    value: float
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Crossover:
    """Where the second family overtakes, or is overtaken."""

    compute: float | None
    interval: Interval | None
    """Of resamples that cross inside the data."""
    share: float
    """Of the resamples that cross inside the data."""
    text: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Two fits, and resamples of both at once."""

    families: tuple[str, str]
    first: Resampled
    second: Resampled
    is_paired: bool
    """Whether cells, seeds and validation images were sampled together."""
    tests: tuple[SharingTest, ...]

    def difference(self, first: Mapping[str, float], second: Mapping[str, float]) -> Difference:
        """Compare at a point of each family: the same compute, say, with factors that are each family's own."""
        value = float(np.log(self.second.fit.predict(second) / self.first.fit.predict(first)))
        values = np.log(self.second.predict([second])[:, 0] / self.first.predict([first])[:, 0])
        return Difference(value=value, interval=interval_of(values, level=self.first.level))

    def crossover(
        self, computes: Sequence[float], first: Sequence[Mapping[str, float]], second: Sequence[Mapping[str, float]]
    ) -> Crossover:
        """Look for a change of sign along a path of points, one of each family for each compute, ascending."""
        log_c = np.log(computes)
        estimate = np.log(
            [self.second.fit.predict(b) / self.first.fit.predict(a) for a, b in zip(first, second, strict=True)]
        )
        resampled = np.log(self.second.predict(second) / self.first.predict(first))
        at = _find_crossing(log_c, estimate[None])[0]
        found = _find_crossing(log_c, resampled)
        inside = found[np.isfinite(found)]
        share = len(inside) / len(found)
        if not np.isfinite(at):
            better = self.families[1] if estimate[-1] < 0 else self.families[0]
            text = f"no crossover inside the data: {better} is better throughout ({share:.0%} of resamples cross)"
            return Crossover(compute=None, interval=None, share=share, text=text)
        interval = interval_of(np.exp(inside), level=self.first.level) if len(inside) else None
        text = f"they cross at {np.exp(at):.3g} ({share:.0%} of resamples cross inside the data)"
        return Crossover(compute=float(np.exp(at)), interval=interval, share=share, text=text)


def compare(
    measurements: Sequence[Measurement],
    law: Law,
    families: tuple[str, str],
    *,
    estimation: Estimation | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Fit a law to two families and sample both together where cells (`Measurement.cell`) and seeds agree.

    Raises:
        UserError: a family has no runs, or too few cells.

    """
    fits = []
    for family in families:
        own = [each for each in measurements if each.family == family]
        if not own:
            known = ", ".join(sorted({each.family for each in measurements}))
            raise UserError(f"no run is of the family {family!r}; families are {known}")
        cells = gather(own, law.factors)
        check_number_of_cells(cells)
        fits.append(fit_cells(cells, law, estimation=estimation))
    first, second = fits
    is_paired = _can_pair(first.cells, second.cells)
    samples = _sample_paired(first, second, resamples, seed) if is_paired else _sample_apart(fits, resamples, seed)
    both = [
        Resampled(fit=each, theta=refit(each, sample), scheme="cells_then_seeds", level=level, seed=seed)
        for each, sample in zip(fits, samples, strict=True)
    ]
    tests = ask_sharing(first, second)
    return Comparison(families=families, first=both[0], second=both[1], is_paired=is_paired, tests=tests)


def ask_sharing(first: Fit, second: Fit) -> tuple[SharingTest, ...]:
    """Compare a joint fit that shares all, or the shape, with two fits that share nothing, under the same noise."""
    costs = {shared: _fit_joint(first, second, shared) for shared in ("all", "shape", "nothing")}
    free, num_free, _ = costs["nothing"]
    freedom_left = len(first.cells) + len(second.cells) - num_free
    tests = []
    shared: Shared
    for shared in ("all", "shape"):
        cost, num, _ = costs[shared]
        extra = num_free - num
        ratio = max(2 * (cost - free), 0.0)
        statistic = ratio / extra / max(2 * free / freedom_left, 1e-12)
        chance = float(f_distribution.sf(statistic, extra, freedom_left))
        tests.append(SharingTest(shared=shared, likelihood_ratio=ratio, freedom=extra, chance=chance))
    return tuple(tests)


def _fit_joint(first: Fit, second: Fit, shared: Shared) -> tuple[float, int, Array]:
    """Objective, number of parameters, theta."""
    base = first.law
    log_x = np.vstack([first.cells.log_x, second.cells.log_x])
    means = np.concatenate([_means(first), _means(second)])
    y = means if first.estimation.residual == "plain" else np.exp(means)
    own_units = base.units(log_x, y)
    law = PairedLaw(
        name=f"{base.name}, sharing {shared}", factors=(*base.factors, "family"), terms=base.terms,
        has_floor=base.has_floor, chance=base.chance, base=base, shared=shared,
    )  # fmt: skip
    units = Units(centres=np.append(own_units.centres, 0.0), scale=own_units.scale)
    family = np.repeat([0.0, 1.0], [len(first.cells), len(second.cells)])
    sd = np.concatenate([first.sd, second.sd])
    problem = make_problem(
        law, units, first.estimation, log_x=np.column_stack([log_x, family])[None], means=means[None], sd=sd[None]
    )
    return _minimise(problem, law, [base.in_own_units(each.parameters, own_units) for each in (first, second)])


def _minimise(problem: Problem, law: PairedLaw, own: Sequence[Array]) -> tuple[float, int, Array]:
    """Begin from each family's estimate for what is shared, and from points between."""
    starts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        theta = np.empty(law.num_parameters)
        for at, each in zip(law.maps, own, strict=True):
            theta[at] = each
        common = np.intersect1d(*law.maps)
        mixed = (1 - share) * own[0] + share * own[1]
        theta[common] = mixed[[list(law.maps[0]).index(index) for index in common]]
        starts.append(theta)
    ends, costs = descend(problem, np.array(starts))
    theta, cost = polish(problem, ends[np.argmin(costs)])
    return cost, law.num_parameters, theta


def _means(fit: Fit) -> Array:
    runs = fit.cells.values if fit.estimation.residual == "plain" else np.log(fit.cells.values)
    return np.asarray(np.nanmean(runs, axis=1))


def _can_pair(first: Cells, second: Cells) -> bool:
    seeds = [dict(zip(cells.labels, cells.seeds, strict=True)) for cells in (first, second)]
    named = all(first.labels) and len(seeds[0]) == len(first) and len(seeds[1]) == len(second)
    return named and seeds[0] == seeds[1]


def _sample_paired(first: Fit, second: Fit, resamples: int, seed: int) -> tuple[Sample, Sample]:
    """Sample the same cells, seeds and validation images for both."""
    rng = np.random.default_rng(seed)
    chosen = choose_cells(first.cells, first.law, resamples, rng)
    at = {label: index for index, label in enumerate(second.cells.labels)}
    order = np.array([at[label] for label in first.cells.labels])
    seeds = choose_seeds(first.cells.num_runs[chosen], first.cells.values.shape[1], rng)
    samples = []
    for each, cells in ((first, chosen), (second, order[chosen])):
        runs = values_of_runs(each, resamples, np.random.default_rng([seed, 1]))  # the same images
        samples.append(Sample(log_x=each.cells.log_x[cells], means=average(runs, cells, seeds), sd=each.sd[cells]))
    return samples[0], samples[1]


def _sample_apart(fits: Sequence[Fit], resamples: int, seed: int) -> tuple[Sample, Sample]:
    first, second = (
        take_sample(each, scheme="cells_then_seeds", resamples=resamples, rng=np.random.default_rng([seed, index]))
        for index, each in enumerate(fits)
    )
    return first, second


def _find_crossing(log_c: Array, differences: Array) -> Array:
    """Find the first change of sign of each row (R, points), between its points in a straight line; NaN without one."""
    sign = np.sign(differences)
    changes = sign[:, 1:] * sign[:, :-1] < 0
    rows = np.arange(len(differences))
    at = np.argmax(changes, axis=1)
    low, high = differences[rows, at], differences[rows, at + 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = log_c[at] + low / (low - high) * (log_c[at + 1] - log_c[at])
    return np.where(changes.any(axis=1), crossing, np.nan)

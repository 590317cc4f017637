"""What was measured: one record a run, and runs gathered into cells."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hornet.errors import UserError

Array = NDArray[np.float64]

SAME_FACTOR = 1.01
"""Ratio up to which a factor that a law does not know is the same in all runs of a cell."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """One run: what was varied, and what came out.

    A value of None is a run without a result (failed, missing, stale); every fit names it. Runs whose factors and
    family agree are the seeds of one cell. `cell` names the place in the grid, where two families are to be compared
    cell by cell though their factors differ a little ("atto, a quarter of the data").
    """

    name: str
    """What messages call it."""
    factors: Mapping[str, float]
    """Positive numbers, such as N (parameters), D or T (images seen), U (unique images), C (FLOPs)."""
    value: float | None
    """A positive number that falls as the network improves: cross entropy or an error."""
    seed: int = 0
    family: str = ""
    """What is compared, such as gf or convnext."""
    cell: str = ""
    image_values: NDArray[np.floating] | None = None
    """The same metric of each validation image (images,), in the same order in all runs; its mean is the value."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """Runs with results, gathered by factors: n cells, at most m runs in one, f factors."""

    factor_names: tuple[str, ...]
    log_x: Array
    """Logarithms of the factors (n, f)."""
    values: Array
    """(n, m); a cell of fewer runs ends in NaN."""
    num_runs: NDArray[np.int64]
    """(n,) runs in each cell."""
    names: tuple[tuple[str, ...], ...]
    """The runs of each cell, in the order of their seeds."""
    seeds: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]
    families: tuple[str, ...]
    differing: tuple[str, ...]
    """What is strange in runs that count as seeds of a cell, as "that differ in T"; empty where it is nothing."""
    image_values: Array | None
    """(n, m, images), where every run has them."""
    without_result: tuple[str, ...]
    digest: str
    """SHA-256 of names, factors, seeds and values: which data a fit has seen."""

    def __len__(self) -> int:
        """Count the cells."""
        return len(self.num_runs)

    def take(self, indexes: Sequence[int] | NDArray[np.int64]) -> Cells:
        """Keep these cells; the digest is then of the kept runs."""
        picked = np.asarray(indexes, dtype=np.int64)
        kept = [int(index) for index in picked]
        names = tuple(self.names[index] for index in kept)
        text = json.dumps([self.digest, *map(list, names)])
        return replace(
            self,
            log_x=self.log_x[picked],
            values=self.values[picked],
            num_runs=self.num_runs[picked],
            names=names,
            seeds=tuple(self.seeds[index] for index in kept),
            labels=tuple(self.labels[index] for index in kept),
            families=tuple(self.families[index] for index in kept),
            differing=tuple(self.differing[index] for index in kept),
            image_values=None if self.image_values is None else self.image_values[picked],
            digest=hashlib.sha256(text.encode()).hexdigest(),
        )


def gather(measurements: Sequence[Measurement], factors: Sequence[str]) -> Cells:
    """Gather runs into cells by family and factors.

    Raises:
        UserError: no run has a result, a factor is missing, or a number is not positive and finite.

    """
    _check(measurements, factors)
    with_result = [each for each in measurements if each.value is not None]
    cells: dict[tuple[object, ...], list[Measurement]] = {}
    for each in with_result:
        cells.setdefault((each.family, *(each.factors[name] for name in factors)), []).append(each)
    groups = [sorted(group, key=lambda each: (each.seed, each.name)) for group in cells.values()]
    width = max(map(len, groups))
    values = np.full((len(groups), width), np.nan)
    for row, group in enumerate(groups):
        values[row, : len(group)] = [each.value for each in group]
    return Cells(
        factor_names=tuple(factors),
        log_x=np.log([[group[0].factors[name] for name in factors] for group in groups]),
        values=values,
        num_runs=np.array([len(group) for group in groups]),
        names=tuple(tuple(each.name for each in group) for group in groups),
        seeds=tuple(tuple(each.seed for each in group) for group in groups),
        labels=tuple(group[0].cell for group in groups),
        families=tuple(group[0].family for group in groups),
        differing=tuple(_compare(group) for group in groups),
        image_values=_stack_image_values(groups, width),
        without_result=tuple(each.name for each in measurements if each.value is None),
        digest=_digest(with_result, factors),
    )


def _check(measurements: Sequence[Measurement], factors: Sequence[str]) -> None:
    if not any(each.value is not None for each in measurements):
        raise UserError(f"none of the {len(measurements)} runs has a result, so there is nothing to fit")
    names = [each.name for each in measurements]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise UserError(f"run {twice[0]} stands twice among the measurements; give each run once")
    for each in measurements:
        for factor in factors:
            number = each.factors.get(factor)
            if number is None:
                raise UserError(f"run {each.name} has no factor {factor}; it has {', '.join(sorted(each.factors))}")
            if not (math.isfinite(number) and number > 0):
                raise UserError(f"run {each.name}: {factor} is {number:g}, but a factor is a positive number")
        if each.value is not None and not (math.isfinite(each.value) and each.value > 0):
            raise UserError(
                f"run {each.name}: its value is {each.value:g}, but laws are of positive numbers; "
                "give None for a run without a result"
            )


def _compare(group: Sequence[Measurement]) -> str:
    """Say what runs of one cell differ in beside their seed, or that they have the same one; else nothing."""
    known = [name for name in sorted(group[0].factors) if all(name in each.factors for each in group)]
    values = {name: [each.factors[name] for each in group] for name in known}
    apart = [name for name, found in values.items() if not 0 < max(found) <= SAME_FACTOR * min(found)]
    if apart:
        return f"that differ in {', '.join(apart)}"
    return "of the same seed" if len({each.seed for each in group}) < len(group) else ""


def _stack_image_values(groups: Sequence[Sequence[Measurement]], width: int) -> Array | None:
    runs = [each for group in groups for each in group]
    sizes = {None if each.image_values is None else len(each.image_values) for each in runs}
    if sizes == {None}:
        return None
    if len(sizes) > 1:
        raise UserError("image_values: either all runs have them, for the same images, or none has")
    stack = np.full((len(groups), width, *(size for size in sizes if size)), np.nan)
    for row, group in enumerate(groups):
        for column, each in enumerate(group):
            assert each.image_values is not None
            assert each.value is not None
            mean = float(np.mean(each.image_values, dtype=np.float64))
            if not math.isclose(mean, each.value, rel_tol=5e-3):  # they may be kept in half precision
                raise UserError(
                    f"run {each.name}: image_values have the mean {mean:g}, but its value is {each.value:g}"
                )
            stack[row, column] = each.image_values
    return stack


def _digest(measurements: Sequence[Measurement], factors: Sequence[str]) -> str:
    rows = sorted(
        [each.name, each.family, each.seed, each.value, *(each.factors[name] for name in factors)]
        for each in measurements
    )
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

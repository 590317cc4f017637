"""Choosing a law by what it says of cells that it has not seen: extrapolation, never how well it bends to its data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hornet.errors import UserError
from scaling.fitting import Estimation, Fit, fit_cells
from scaling.law import Law
from scaling.measurements import Array, Cells, Measurement, gather


@dataclass(frozen=True, kw_only=True, eq=False)
class Fold:
    """Cells that a law is fitted to, and cells that it must foretell; by the names of their runs."""

    name: str
    seen: frozenset[str]
    held_out: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Score:
    """A law's error on held-out cells."""

    law: Law
    rmsle: float
    """Root of the mean square of log(predicted) - log(measured)."""
    standard_error: float
    """Of the rmsle, over held-out cells."""
    num_held_out: int
    aicc: float
    """Of the last fold's fit; beside the rmsle, never alone."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """All laws by their error, smallest first, and which is taken."""

    scores: tuple[Score, ...]
    taken: Score
    """The law with the fewest parameters within one standard error of the smallest error."""


def hold_out_largest(measurements: Sequence[Measurement], factor: str) -> list[Fold]:
    """One fold: the largest level of a factor, such as the largest network or all of the data, is foretold."""
    with_result = [each for each in measurements if each.value is not None]
    level = max(each.factors[factor] for each in with_result)
    return [_divide(f"largest {factor}", with_result, factor, below=level, upto=level)]


def roll(measurements: Sequence[Measurement], factor: str, *, first: int) -> list[Fold]:
    """Fit all levels up to the k-th, foretell the next: for k from `first` on."""
    with_result = [each for each in measurements if each.value is not None]
    levels = sorted({each.factors[factor] for each in with_result})
    if len(levels) <= first:
        raise UserError(f"{factor} has {len(levels)} levels: none is left to foretell after the first {first}")
    return [_divide(f"{factor} = {level:g}", with_result, factor, below=level, upto=level) for level in levels[first:]]


def choose(
    measurements: Sequence[Measurement],
    laws: Iterable[Law],
    folds: Sequence[Fold],
    *,
    estimation: Estimation | None = None,
) -> Choice:
    """Score each law on all folds.

    Raises:
        UserError: there is no fold, or one leaves too few cells for a law.

    """
    if not folds:
        raise UserError("no fold: nothing would be foretold, and laws are not chosen by what they have seen")
    scores = [_score(law, measurements, folds, estimation) for law in laws]
    scores.sort(key=lambda each: each.rmsle)
    limit = scores[0].rmsle + scores[0].standard_error
    near = [each for each in scores if each.rmsle <= limit]
    return Choice(scores=tuple(scores), taken=min(near, key=lambda each: (each.law.num_parameters, each.rmsle)))


def log_errors(fitted: Fit, cells: Cells) -> Array:
    """log(predicted) - log(measured) of cells (n,)."""
    z = cells.log_x - fitted.units.centres
    y, _ = fitted.law.evaluate(fitted.theta[None], z[None])
    measured = np.nanmean(np.log(cells.values), axis=1)
    return np.asarray(np.log(np.maximum(y[0] * fitted.units.scale, 1e-300)) - measured)


def _score(
    law: Law, measurements: Sequence[Measurement], folds: Sequence[Fold], estimation: Estimation | None
) -> Score:
    cells = gather(measurements, law.factors)
    errors = []
    for fold in folds:
        fitted = fit_cells(cells.take(_find(cells, fold.seen)), law, estimation=estimation)
        errors.append(log_errors(fitted, cells.take(_find(cells, fold.held_out))))
    squares = np.concatenate(errors) ** 2
    rmsle = float(np.sqrt(squares.mean()))
    of_mean = float(squares.std(ddof=1) / np.sqrt(len(squares))) if len(squares) > 1 else float("inf")
    return Score(
        law=law,
        rmsle=rmsle,
        standard_error=of_mean / (2 * rmsle) if rmsle > 0 else 0.0,
        num_held_out=len(squares),
        aicc=fitted.aicc,
    )


def _find(cells: Cells, names: frozenset[str]) -> NDArray[np.int64]:
    found = np.array([i for i, group in enumerate(cells.names) if names.issuperset(group)], dtype=np.int64)
    if not len(found):
        raise UserError(
            f"no cell has all its runs in this fold, which names {len(names)} runs; folds divide cells, not runs"
        )
    return found


def _divide(name: str, runs: Sequence[Measurement], factor: str, *, below: float, upto: float) -> Fold:
    return Fold(
        name=name,
        seen=frozenset(each.name for each in runs if each.factors[factor] < below),
        held_out=frozenset(each.name for each in runs if below <= each.factors[factor] <= upto),
    )

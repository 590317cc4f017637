"""The families of a study beside each other: may they share a law, which is better where, and does one overtake."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from hornet.errors import UserError
from scaling.analysis import FamilyFit
from scaling.comparison import Comparison, Crossover, Difference, compare
from scaling.config import Study
from scaling.law import Law
from scaling.results import Result, list_measurements

SHARED = {"all": "one law for both", "shape": "the same exponents"}


@dataclass(frozen=True, kw_only=True, eq=False)
class FamilyComparison:
    """What is known of two families; `problem` says why nothing is."""

    families: tuple[str, str]
    problem: str | None = None
    law: Law | None = None
    comparison: Comparison | None = None
    place: str = ""
    """The largest place that both have, where they are compared."""
    difference: Difference | None = None
    crossover: Crossover | None = None
    num_places: int = 0
    """Places that both have with a result."""
    mean: float | None = None
    """Of log(second / first) over these, without a law."""
    deviation: float | None = None
    """Its standard deviation from place to place."""
    num_better: int = 0
    """Places where the second family is better."""

    def as_json(self) -> dict[str, Any]:
        """Values that JSON can hold."""
        made, found, crossing = self.comparison, self.difference, self.crossover
        return {
            "families": list(self.families),
            "problem": self.problem,
            "law": None if self.law is None else self.law.name,
            "is_paired": None if made is None else made.is_paired,
            "tests": [
                {"shared": test.shared, "likelihood_ratio": test.likelihood_ratio, "p": test.chance}
                for test in (() if made is None else made.tests)
            ],
            "place": self.place,
            "log_ratio": None if found is None else found.value,
            "interval": None if found is None else [found.interval.low, found.interval.high],
            "crossover": None if crossing is None else crossing.text,
            "num_places": self.num_places,
            "mean_log_ratio": self.mean,
            "deviation": self.deviation,
            "num_better": self.num_better,
        }


def compare_families(study: Study, fits: Sequence[FamilyFit], results: Sequence[Result]) -> list[FamilyComparison]:
    """Compare each pair of families, the one that the study names first with the other."""
    names = [each.family for each in fits if each.family]
    return [_compare(study, pair, fits, results) for pair in itertools.combinations(names, 2)]


def _compare(
    study: Study, families: tuple[str, str], fits: Sequence[FamilyFit], results: Sequence[Result]
) -> FamilyComparison:
    runs = [
        run
        for run in results
        if run.stage == "pretrain" and run.family in families and not run.is_held_out and run.value is not None
    ]
    runs = _keep_common(runs, families)
    ratios = _list_ratios(runs, families)
    content: dict[str, Any] = {
        "families": families,
        "num_places": len(ratios),
        "mean": fmean(ratios.values()) if ratios else None,
        "deviation": stdev(ratios.values()) if len(ratios) > 1 else None,
        "num_better": sum(ratio < 0 for ratio in ratios.values()),
    }
    law = _choose_law([each for each in fits if each.family in families])
    if law is None:
        return FamilyComparison(**content, problem="no law was fitted to both")
    try:
        settings = study.config.fit
        made = compare(
            list_measurements(runs), law, families, resamples=settings.resamples, level=settings.level
        )  # fmt: skip
    except UserError as error:
        return FamilyComparison(**content, problem=str(error), law=law)
    content |= {"law": law, "comparison": made}
    if not ratios:
        return FamilyComparison(**content)
    factors = {(run.family, run.place): run.factors for run in runs}
    place = max(ratios, key=lambda each: [factors[families[0], each][name] for name in ("C", "N", "U")])
    content |= {
        "place": place,
        "difference": made.difference(factors[families[0], place], factors[families[1], place]),
        "crossover": _look_for_crossover(made, runs, families, factors, ratios),
    }
    return FamilyComparison(**content)


def _keep_common(runs: Sequence[Result], families: tuple[str, str]) -> list[Result]:
    """Leave out places and seeds that one family alone has: they say nothing of a difference."""
    keys = [{(run.place, run.seed) for run in runs if run.family == family} for family in families]
    return [run for run in runs if (run.place, run.seed) in keys[0] & keys[1]]


def _list_ratios(runs: Sequence[Result], families: tuple[str, str]) -> dict[str, float]:
    """Return log(second / first) of each place that both have, by the means of the seeds that both have there."""
    values = {(run.family, run.place, run.seed): run.value for run in runs if run.value is not None}
    ratios = {}
    for place in dict.fromkeys(run.place for run in runs):
        seeds = [
            {seed for family, at, seed in values if (family, at) == (each, place)} for each in families
        ]  # fmt: skip
        both = sorted(seeds[0] & seeds[1])
        if both:
            ratios[place] = fmean(
                math.log(values[families[1], place, seed] / values[families[0], place, seed]) for seed in both
            )
    return ratios


def _choose_law(fits: Sequence[FamilyFit]) -> Law | None:
    """Return the law that foretells both best, by the sum of their errors on the largest level held out."""
    if any(each.fit is None for each in fits):
        return None
    scores: dict[str, list[float]] = {}
    for each in fits:
        for score in each.choice.scores if each.choice is not None else ():
            scores.setdefault(score.law.name, []).append(score.rmsle)
    laws = {each.fit.law.name: each.fit.law for each in fits if each.fit is not None}
    laws |= {score.law.name: score.law for each in fits if each.choice for score in each.choice.scores}
    asked = {name: sum(errors) for name, errors in scores.items() if len(errors) == len(fits)}
    first = fits[0].fit
    return laws[min(asked, key=lambda name: asked[name])] if asked else first.law if first is not None else None


def _look_for_crossover(
    made: Comparison,
    runs: Sequence[Result],
    families: tuple[str, str],
    factors: Mapping[tuple[str, str], Mapping[str, float]],
    places: Mapping[str, float],
) -> Crossover | None:
    """Go along the sizes at the largest data that both have; None with one size."""
    most = max(factors[families[0], place]["U"] for place in places)
    path = [place for place in places if factors[families[0], place]["U"] == most]
    longest = max(factors[families[0], place]["T"] for place in path)
    path = [place for place in path if factors[families[0], place]["T"] == longest]
    path.sort(key=lambda place: factors[families[0], place]["C"])
    if len(path) < 2:
        return None
    first, second = ([factors[family, place] for place in path] for family in families)
    return made.crossover([point["C"] for point in first], first, second)


def describe(found: FamilyComparison) -> list[str]:
    """Return what a reader should know, in sentences."""
    first, second = found.families
    lines = []
    if found.mean is not None:
        spread = "" if found.deviation is None else f", {100 * found.deviation:.1f} from place to place"
        lines.append(
            f"Measured, without a law: {second} is {_say(found.mean)} {first}, the mean over {found.num_places} places "
            f"of the grid that both have{spread}; it is better at {found.num_better} of them."
        )
    if found.problem is not None:
        lines.append(f"By the laws: not compared: {found.problem}.")
    if found.comparison is None:
        return lines
    made = found.comparison
    together = "cells, seeds and images sampled together" if made.is_paired else "sampled each by itself: grids differ"
    if found.difference is not None:
        value, interval = found.difference.value, found.difference.interval
        is_clear = interval.low > 0 or interval.high < 0
        verdict = "a difference" if is_clear else "no difference that the data can tell"
        span = f"{100 * interval.level:g} % interval {_percent(interval.low)} to {_percent(interval.high)}"
        lines.append(
            f"By the law {made.first.fit.law.name} at the largest place that both have, {found.place}: {second} is "
            f"{_say(value)} {first}, {span} ({together}): {verdict}."
        )
    for test in made.tests:
        lines.append(
            f"{SHARED[test.shared].capitalize()}: likelihood ratio {test.likelihood_ratio:.3g} for {test.freedom} "
            f"parameters, F test p = {test.chance:.3g}."
        )
    if found.crossover is not None:
        lines.append(f"Along the sizes on the most data: {found.crossover.text}.")
    return lines


def _say(log_ratio: float) -> str:
    return f"{abs(100 * math.expm1(log_ratio)):.2g} % {'below' if log_ratio < 0 else 'above'}"


def _percent(log_ratio: float) -> str:
    return f"{100 * math.expm1(log_ratio):+.2g} %"

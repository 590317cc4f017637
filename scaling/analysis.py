"""Laws fitted to a study: which, how sure, what they foretell. Written as fits.json and predictions.json."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hornet.durable import write_json
from hornet.errors import UserError
from scaling.cells import Cell
from scaling.config import Study
from scaling.fitting import Fit, fit
from scaling.law import Law
from scaling.laws import bounded, bounded_joint, chinchilla, kaplan, power, repeated, saturating, shifted, three_term
from scaling.measurements import Measurement
from scaling.predictions import predict
from scaling.resampling import Resampled, resample
from scaling.results import Result, gather_results, list_measurements
from scaling.selection import Choice, choose, hold_out_largest
from scaling.state import read_json

FITS, PREDICTIONS = "fits.json", "predictions.json"
PREDICTED = {"name", "value", "low", "high", "written_at"}
"""What each prediction says, at the least."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FamilyFit:
    """What was found of one family."""

    family: str
    fit: Fit | None
    """None where no law could be fitted; `remarks` say why."""
    resampled: Resampled | None
    choice: Choice | None
    remarks: tuple[str, ...]
    """What a reader must know, in sentences: laws that were left out, why there is no interval."""
    without_result: tuple[str, ...]
    """Runs that the fit has not seen, each with its state and reason."""


def fit_study(study: Study, results: Sequence[Result]) -> list[FamilyFit]:
    """Fit each family by itself."""
    families = dict.fromkeys(result.family for result in results if result.stage == "pretrain")
    return [_fit_family(study, family, results) for family in families]


def list_laws(study: Study, measurements: Sequence[Measurement], *, num_classes: int) -> list[Law]:
    """Return the laws that the study asks for and its factors allow.

    They are of size and data, of the one of these that varies, or, where unique images and images seen vary each for
    itself, of size and both.
    """
    data = study.config.fit.data
    chance = math.log(num_classes) if study.config.measure.metric == "loss" else 1 - 1 / num_classes
    varied = [name for name in ("N", data) if len({each.factors[name] for each in measurements}) > 1]
    factor = varied[0] if varied else "C"
    laws = [power(factor), saturating(factor), bounded(factor, chance=chance), shifted(factor)]
    if len(varied) == 2:
        laws = [kaplan("N", data), chinchilla("N", data), bounded_joint("N", data, chance=chance)]
    asked = study.config.fit.laws
    places = [{tuple(each.factors[name] for name in names) for each in measurements} for names in ("NUT", ("N", data))]
    if len(varied) == 2 and len(places[0]) > len(places[1]):
        of_both = [repeated("N", "U", "T"), three_term("N", "T", "U", chance=chance)]
        laws = [*of_both, *laws] if asked else of_both
    return [law for law in laws if not asked or law.name in asked]


def as_json(study: Study, fits: Sequence[FamilyFit], comparisons: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return all that was found, as JSON holds it; `comparisons` are those of families.py."""
    return {
        "study": study.config.study.name,
        "metric": study.config.measure.metric,
        "weights": study.config.measure.weights,
        "written_at": _now(),
        "families": [_describe(each) for each in fits],
        "comparisons": list(comparisons),
    }


def write_fits(study: Study, fits: Sequence[FamilyFit], comparisons: Sequence[Mapping[str, Any]] = ()) -> None:
    """Write fits.json into the study's folder."""
    write_json(study.folder / FITS, as_json(study, fits, comparisons))


def write_predictions(study: Study, fits: Sequence[FamilyFit], results: Sequence[Result]) -> str | None:
    """Foretell what is held out and not begun; what was foretold of runs that have begun stays as it is.

    Returns why something cannot be foretold, or None.
    """
    kept = {each["name"]: each for each in read_predictions(study)}
    problem = None
    for name, runs in group_held_out(results).items():
        if any(run.state != "missing" for run in runs):
            continue
        found = next(each for each in fits if each.family == runs[0].family)
        if found.fit is None:
            problem = f"{name}: {' '.join(found.remarks)}"
            continue
        kept[name] = _foretell(found, name, runs)
    if kept:
        write_json(study.folder / PREDICTIONS, {"predictions": list(kept.values())})
    return problem


def read_predictions(study: Study) -> list[dict[str, Any]]:
    """Return what was foretold, in the order in which it was; raises UserError if the file holds something else."""
    path = study.folder / PREDICTIONS
    found = read_json(path).get("predictions") or []
    if not isinstance(found, list) or not all(isinstance(each, dict) and each.keys() >= PREDICTED for each in found):
        raise UserError(f"{path}: does not hold what a study writes there; move the file away to go on")
    return found


def foretell(study: Study, cells: Sequence[Cell]) -> str | None:
    """Write the predictions of what is held out; return why one cannot be made, or None."""
    results = gather_results(study, [cell for cell in cells if cell.tried is None])
    return write_predictions(study, fit_study(study, results), results)


def group_held_out(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Return the seeds of each place that is held out, by GROUP/FAMILY_PLACE."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        if result.is_held_out:
            groups.setdefault(result.name.rpartition("_s")[0], []).append(result)
    return groups


def judge_predictions(study: Study, results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return each prediction with what came: `measured` (mean of the seeds), `ratio`, `is_inside`; None before.

    `without_result` names the runs that have ended without one: then it cannot be judged.
    """
    judged = []
    places = group_held_out(results)
    for prediction in read_predictions(study):
        runs = places.get(prediction["name"], [])
        values = [run.value for run in runs]
        lost = [run.name for run in runs if run.value is None and run.state in ("finished", "failed", "stale")]
        row = {**prediction, "measured": None, "ratio": None, "is_inside": None, "without_result": lost}
        if values and all(value is not None for value in values):
            measured = sum(value for value in values if value is not None) / len(values)
            row |= {"measured": measured, "ratio": measured / prediction["value"]}
            if prediction["low"] is not None:
                row["is_inside"] = prediction["low"] <= measured <= prediction["high"]
        judged.append(row)
    return judged


def _fit_family(study: Study, family: str, results: Sequence[Result]) -> FamilyFit:
    mine = [result for result in results if result.family == family]
    measurements = list_measurements(mine)
    without = tuple(
        f"{run.name} ({run.state}{': ' + run.reason if run.reason else ''})"
        for run in mine
        if run.stage == "pretrain" and not run.is_held_out and run.value is None
    )
    with_result = [each for each in measurements if each.value is not None]
    remarks: list[str] = []
    fitted, choice = None, None
    if not with_result:
        remarks.append(f"none of the {len(measurements)} runs has a result, so there is nothing to fit")
    else:
        laws = list_laws(study, with_result, num_classes=mine[0].num_classes)
        fitted, choice = _choose(measurements, laws, remarks)
    resampled = None
    if fitted is not None:
        try:
            settings = study.config.fit
            resampled = resample(fitted, resamples=settings.resamples, level=settings.level)
        except UserError as error:
            remarks.append(f"no interval: {error}")
    return FamilyFit(
        family=family, fit=fitted, resampled=resampled, choice=choice, remarks=tuple(remarks), without_result=without
    )


def _choose(
    measurements: Sequence[Measurement], laws: Sequence[Law], remarks: list[str]
) -> tuple[Fit | None, Choice | None]:
    """Take the law that foretells the largest level best; where none can be asked, the simplest that can be fitted."""
    if not laws:
        remarks.append("none of the laws in fit.laws is one of the factors that the study varies")
        return None, None
    factor = laws[0].factors[0]
    able: list[Law] = []
    for law in laws:
        try:
            choose(measurements, [law], hold_out_largest(measurements, factor))
            able.append(law)
        except UserError as error:
            remarks.append(f"{law.name} was not asked for the largest {factor}: {error}")
    choice = choose(measurements, able, hold_out_largest(measurements, factor)) if able else None
    ordered = [choice.taken.law] if choice else sorted(laws, key=lambda law: law.num_parameters)
    for law in ordered:
        try:
            fitted = fit(measurements, law)
        except UserError as error:
            remarks.append(f"{law.name} was not fitted: {error}")
            continue
        if choice is None:
            remarks.append(f"{law.name} is the simplest law, not one that was chosen by what it foretells")
        return fitted, choice
    return None, None


def _describe(found: FamilyFit) -> dict[str, Any]:
    content: dict[str, Any] = {
        "family": found.family,
        "remarks": list(found.remarks),
        "without_result": list(found.without_result),
    }
    if found.choice is not None:
        content["laws"] = [
            {"law": score.law.name, "rmsle": score.rmsle, "standard_error": score.standard_error, "aicc": score.aicc}
            for score in found.choice.scores
        ]
    if found.fit is None:
        return content
    fitted, resampled = found.fit, found.resampled
    intervals = None
    if resampled is not None:
        pairs = {name: resampled.parameter(name) for name in fitted.parameters}
        intervals = {name: [pair.low, pair.high] for name, pair in pairs.items()}
    return content | {
        "law": fitted.law.name,
        "factors": list(fitted.law.factors),
        "parameters": fitted.parameters,
        "intervals": intervals,
        "level": None if resampled is None else resampled.level,
        "scheme": None if resampled is None else resampled.scheme,
        "num_cells": len(fitted.cells),
        "num_runs": int(fitted.cells.num_runs.sum()),
        "noise": asdict(fitted.noise),
        "estimation": str(fitted.estimation),
        "proof": asdict(fitted.proof),
        "flags": [asdict(flag) for flag in fitted.flags],
        "data_digest": fitted.cells.digest,
    }


def _foretell(found: FamilyFit, name: str, runs: Sequence[Result]) -> dict[str, Any]:
    fitted = found.fit
    assert fitted is not None
    factors = runs[0].factors
    if found.resampled is not None:
        made = predict(found.resampled, name=name, factors=factors, written_at=_now(), num_runs=len(runs))
        return made.as_json() | {"remark": ""}
    return {
        "name": name,
        "factors": {key: float(factors[key]) for key in fitted.law.factors},
        "value": fitted.predict(factors),
        "low": None,
        "high": None,
        "num_runs": len(runs),
        "law": fitted.law.name,
        "data_digest": fitted.cells.digest,
        "runs_seen": sorted(run for names in fitted.cells.names for run in names),
        "written_at": _now(),
        "remark": " ".join(remark for remark in found.remarks if remark.startswith("no interval")),
    }


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

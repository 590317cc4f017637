"""What a reader should ask of any study of scaling, answered from the study itself.

The questions are those of "(Mis)Fitting: A Survey of Scaling Laws" (ICLR 2025), in our words.
"""

from __future__ import annotations

from collections.abc import Sequence

from hornet.quantities import shorten
from scaling.analysis import FamilyFit
from scaling.config import Study
from scaling.fitting import Fit
from scaling.results import Result, describe_images

UNKNOWN = "not known yet"


def list_answers(study: Study, fits: Sequence[FamilyFit], results: Sequence[Result]) -> list[tuple[str, str]]:
    """Return (question, answer)."""
    runs = [run for run in results if run.stage == "pretrain"]
    fitted = [each.fit for each in fits if each.fit is not None]
    held = [run for run in runs if run.is_held_out]
    intervals = [each.resampled.scheme for each in fits if each.resampled is not None]
    laws = ", ".join(f"{fit.law.name}({', '.join(fit.law.factors)})" for fit in fitted)
    return [
        ("form of the law", laws or UNKNOWN),
        ("N", "parameters without the classifier; cells.csv has all of them too"),
        ("data", _say_data(study, fitted)),
        ("C", "floating point operations of forward and backward passes, counted, not 6 N D"),
        ("metric", f"{study.config.measure.metric} on the evaluation set, {study.config.measure.weights} weights"),
        ("runs", f"{sum(run.value is not None for run in runs)} with a result of {len(runs)} asked for"),
        ("range of N", _range([run.N for run in runs])),
        ("range of U", _range([run.U for run in runs])),
        ("range of T", _range([run.T for run in runs])),
        ("seeds", ", ".join(str(seed) for seed in sorted({run.seed for run in runs}))),
        ("families", ", ".join(dict.fromkeys(run.family or "one" for run in runs))),
        ("comparisons of families", _count_pairs(len({run.family for run in runs}))),
        ("checkpoints", "the last step of each run alone"),
        (
            "hyperparameters by size",
            "as `per` says" if study.per else "the same for all sizes: not tuned a size",
        ),
        ("shares of the data", f"nested, by class, seed {study.config.data.seed}"),
        ("what is minimised", str(fitted[0].estimation) if fitted else UNKNOWN),
        ("optimiser and its starts", "; ".join(_say_proof(each) for each in fits if each.fit is not None) or UNKNOWN),
        ("intervals", ", ".join(dict.fromkeys(intervals)) or "none: below 12 cells, or nothing fitted"),
        ("validation images", describe_images(results)[1]),
        ("how the law was chosen", _say_choice(fits)),
        ("held out and foretold", ", ".join(run.name for run in held) or "nothing"),
        ("code, data and seeds", "configs in cells/, results in cells.csv, the commit in each run's environment.json"),
    ]


def _say_proof(found: FamilyFit) -> str:
    assert found.fit is not None
    proof = found.fit.proof
    codes = ", ".join(flag.code for flag in found.fit.flags) or "no flag"
    return f"L-BFGS-B, {proof.num_agreeing} of {proof.num_starts} starts agree, {codes}"


def _say_choice(fits: Sequence[FamilyFit]) -> str:
    if any(found.choice is not None for found in fits):
        return "by the error on the largest level held out"
    return "not chosen: too few cells to hold some out"


def _say_data(study: Study, fitted: Sequence[Fit]) -> str:
    if any({"U", "T"} <= set(fit.law.factors) for fit in fitted):
        return "U and T: unique images and images seen"
    return "U: unique images" if study.config.fit.data == "U" else "T: images seen"


def _count_pairs(num_families: int) -> str:
    pairs = num_families * (num_families - 1) // 2
    return f"{pairs}, none corrected for the others" if pairs > 1 else str(pairs)


def _range(values: Sequence[float]) -> str:
    return f"{shorten(min(values))} to {shorten(max(values))}, {len(set(values))} levels" if values else UNKNOWN

"""What the runs of a study gave: a row a run, finished or not, as records for fits and as cells.csv."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hornet.durable import write_text
from hornet.errors import UserError
from scaling.cells import Cell
from scaling.config import Study
from scaling.images import ImageValues, explain_images, read_image_values
from scaling.ledger import Entry, read_ledger
from scaling.measurements import Measurement
from scaling.networks import NetworkFacts, describe_networks
from scaling.state import Standing, list_runs, look, read_json, require_folder

FILE = "cells.csv"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run of the study gave: its row of cells.csv."""

    name: str
    group: str
    stage: str
    family: str
    size: str
    fraction: float
    seed: int
    place: str
    """What of the grid it is, whatever family and seed."""
    is_held_out: bool
    parent: str | None
    trunk: str | None
    """The run that it begins with, where that is another."""
    model: str
    num_classes: int
    N: int
    """Parameters without the classifier."""
    num_parameters: int
    U: int
    """Unique images."""
    T: int
    """Images seen."""
    C: float
    """Training FLOPs."""
    state: str
    reason: str
    """Why there is no value."""
    value: float | None
    """The study's metric; None without a result."""
    loss: float | None
    top1: float | None
    """Percent."""
    seconds: float | None
    """Of all attempts, each from the command to its exit where a runner on this machine has seen it end."""
    seconds_planned: float | None
    """As it was estimated before the run began."""
    images_per_second: float | None
    digest: str | None
    commit: str | None
    """Commit of the code that made it, as git names it."""
    images: ImageValues | None = field(default=None, compare=False, repr=False)
    """The metric of each validation image, where the run kept it; not in cells.csv."""

    @property
    def factors(self) -> dict[str, float]:
        """The factors that laws take, by their names in laws."""
        return {"N": self.N, "U": self.U, "T": self.T, "C": self.C}


def gather_results(study: Study, cells: Sequence[Cell]) -> list[Result]:
    """Return what the runs of these cells gave, by what stands on the disk; raises UserError if it cannot be kept."""
    require_folder(study)
    return collect(study, cells, networks=describe_networks(cells, study.folder), standings=look(study, cells))


def collect(
    study: Study,
    cells: Sequence[Cell],
    *,
    networks: Mapping[str, NetworkFacts],
    standings: Mapping[str, Standing],
) -> list[Result]:
    """Return a row for each run of the study, those without a result among them."""
    ledger = read_ledger(study)
    return [
        _read(study, cell, networks[cell.name], standings[cell.name], ledger.get(cell.run, Entry()))
        for cell in list_runs(cells)
    ]


def write_results(study: Study, results: Sequence[Result]) -> None:
    """Write cells.csv into the study's folder."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [each.name for each in fields(Result) if each.name != "images"]
    writer.writerow(names)
    for result in results:
        values = [getattr(result, name) for name in names]
        writer.writerow(["" if value is None else value for value in values])
    study.folder.mkdir(parents=True, exist_ok=True)
    write_text(study.folder / FILE, text.getvalue())


def list_measurements(results: Sequence[Result]) -> list[Measurement]:
    """Return the pretrainings to learn from as records for fits.

    They have values of images where all of `results` do, of the same images.
    """
    has_images, _ = describe_images(results)
    return [
        Measurement(
            name=result.name,
            factors=result.factors,
            value=result.value,
            seed=result.seed,
            family=result.family,
            cell=result.place,
            image_values=result.images.values if has_images and result.images is not None else None,
        )
        for result in results
        if result.stage == "pretrain" and not result.is_held_out
    ]


def describe_images(results: Sequence[Result]) -> tuple[bool, str]:
    """Return whether the fits sample the validation images too, and a sentence on it."""
    return explain_images([each.images for each in results if each.stage == "pretrain" and each.value is not None])


def _read(study: Study, cell: Cell, facts: NetworkFacts, standing: Standing, entry: Entry) -> Result:
    summary: Mapping[str, Any] = standing.summary or {}
    evaluation, reason = _find_evaluation(study, summary) if summary else (None, standing.reason)
    loss, top1 = (evaluation or {}).get("loss"), (evaluation or {}).get("top1")
    value = loss if study.config.measure.metric == "loss" else None if top1 is None else 1 - top1 / 100
    if evaluation is not None and not (value is not None and 0 < value < math.inf):
        is_finite = value is not None and math.isfinite(value)
        found = f"{value:g}, and laws are of positive numbers" if is_finite else "not finite: it has diverged"
        value, reason = None, f"its {study.config.measure.metric} is {found}"
    if summary and cell.evaluation is None:
        reason = "it is not evaluated"
    images = None
    if value is not None and evaluation is not None:
        images = read_image_values(
            study.folder / cell.run, step=int(evaluation.get("step") or summary.get("steps") or 0),
            weights=study.config.measure.weights, metric=study.config.measure.metric, value=value,
        )  # fmt: skip
    return Result(
        name=cell.name,
        group=cell.group,
        stage=cell.stage,
        family=cell.family,
        size=cell.size,
        fraction=cell.fraction,
        seed=cell.seed,
        place=cell.place,
        is_held_out=cell.is_held_out,
        parent=cell.parent,
        trunk=cell.trunk,
        model=cell.config.model.name,
        num_classes=cell.train.num_classes,
        N=facts.size,
        num_parameters=facts.num_parameters,
        U=cell.train.num_samples,
        T=cell.images_seen,
        C=float(summary.get("training_flops") or cell.images_seen * facts.flops_per_image),
        state=standing.state,
        reason=reason,
        value=value,
        loss=loss,
        top1=top1,
        seconds=None if not summary else max(entry.took or 0.0, float(summary.get("seconds") or 0.0)),
        seconds_planned=entry.planned,
        images_per_second=summary.get("images_per_second"),
        digest=cell.digest,
        commit=_find_commit(study.folder / cell.run) if summary else None,
        images=images,
    )


def _find_commit(folder: Path) -> str | None:
    try:
        git = read_json(folder / "environment.json").get("git") or {}
    except UserError:  # what it learned is known without
        return None
    return git.get("commit")


def _find_evaluation(study: Study, summary: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, str]:
    wanted = study.config.measure.weights
    rows = [row for row in summary.get("evaluations") or () if row["weights"] == wanted]
    return (rows[-1], "") if rows else (None, f"its last step was not evaluated with {wanted} weights")

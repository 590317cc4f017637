"""How the runs of a study stand, from their run directories alone."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from hornet.errors import UserError
from hornet.runs.begun import CONFIG_NAME, refuse_changes
from scaling.cells import Cell
from scaling.config import Study

State = Literal["missing", "started", "failed", "stale", "finished"]
STATES: tuple[State, ...] = ("finished", "started", "failed", "stale", "missing")
"""finished: its summary is of what the study asks for; started: begun, not finished; failed: given up, or ended by an
error; stale: what is there is another run; missing: nothing is there."""

STATUS_NAME = "status.json"
NO_SET = "it has ended, but its set is not here, so whether it is what the study asks for is not known"

Record = TypeVar("Record")


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a run is, and why it is no farther."""

    state: State
    reason: str
    """Why it failed, is stale, or is missing since what it needs has failed; empty for the others."""
    summary: Mapping[str, Any] | None
    """Of a finished run alone: nobody sees a stale one's."""


def look(study: Study, cells: Sequence[Cell]) -> dict[str, Standing]:
    """Return how each cell's run stands, by the cell's name."""
    given_up = read_json(study.folder / STATUS_NAME).get("failed") or {}
    if not isinstance(given_up, dict):
        path = study.folder / STATUS_NAME
        raise UserError(f"{path}: does not hold what a study writes there; move the file away to go on")
    by_run = {cell.run: cell for cell in cells}
    standings = {run: _look_at(study.folder / run, cell, given_up.get(run)) for run, cell in by_run.items()}
    found = {cell.name: standings[cell.run] for cell in cells}
    for cell in cells:
        if found[cell.name].state == "missing":
            lost = [f"its {kind} {name} failed" for kind, name in cell.waits_for.items() if _has_failed(name, found)]
            found[cell.name] = replace(found[cell.name], reason="; ".join(lost))
    return found


def list_runs(cells: Iterable[Cell]) -> list[Cell]:
    """Return one cell for each run, that which owns its directory, in the order of the study."""
    owners: dict[str, Cell] = {}
    for cell in cells:
        if cell.run not in owners or cell.name == cell.run:
            owners[cell.run] = cell
    return list(owners.values())


def count_states(standings: Iterable[Standing]) -> str:
    """Return "3 finished, 1 failed", in the order of STATES."""
    counts = Counter(standing.state for standing in standings)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "no runs"


def require_nothing_stale(standings: Mapping[str, Standing]) -> None:
    """Raise UserError, with all of them, if what the study asks for was changed under runs that are there."""
    stale = [f"{name}: {standing.reason}" for name, standing in standings.items() if standing.state == "stale"]
    if stale:
        raise UserError(
            "\n".join(stale)
            + "\nundo the change, choose another study.name, or move these run directories away to make them anew"
        )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that was written whole; an empty one if there is no file."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({error}); move the file away to go on") from error
    return value if isinstance(value, dict) else {}


def read_records(path: Path, kind: type[Record]) -> dict[str, Record]:
    """Read a JSON object of records of one kind, by name; raises UserError if it holds anything else."""
    try:
        return {name: kind(**values) for name, values in read_json(path).items()}
    except TypeError as error:
        raise UserError(f"{path}: does not hold what a study writes there; move the file away to go on") from error


def require_folder(study: Study) -> None:
    """Make the study's folder; raises UserError if it cannot be written."""
    probe = study.folder / f".writable.{os.getpid()}"
    try:
        study.folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"{study.folder}: the study's folder cannot be written ({error.strerror}); choose another study.root"
        ) from error


def _has_failed(name: str, standings: Mapping[str, Standing]) -> bool:
    return name in standings and standings[name].state == "failed"


def _look_at(folder: Path, cell: Cell, given_up: str | None) -> Standing:
    try:
        return _read_standing(folder, cell, given_up)
    except UserError as error:  # a file of this run; the others stand as they do
        return Standing(state="failed", reason=str(error), summary=None)


def _read_standing(folder: Path, cell: Cell, given_up: str | None) -> Standing:
    summary = read_json(folder / "summary.json")
    if summary and summary.get("digest") is not None and summary["digest"] == cell.digest:
        return Standing(state="finished", reason="", summary=summary)
    if cell.digest is None and summary:
        return Standing(state="started", reason=NO_SET, summary=None)
    if cell.digest is not None and (summary or (folder / "checkpoints" / "latest").exists()):
        reason = _explain_change(folder, cell, is_finished=bool(summary))
        if reason is not None:
            return Standing(state="stale", reason=reason, summary=None)
    status = read_json(folder / STATUS_NAME)
    if given_up is not None:
        return Standing(state="failed", reason=given_up, summary=None)
    if status.get("state") == "failed":
        return Standing(state="failed", reason=str(status.get("error", "an error ended it")), summary=None)
    return Standing(state="started" if folder.exists() else "missing", reason="", summary=None)


def _explain_change(folder: Path, cell: Cell, *, is_finished: bool) -> str | None:
    """Return why the run in `folder` is not the cell's; None if it may be, as far as its config says."""
    try:
        if (folder / CONFIG_NAME).exists():
            refuse_changes(cell.config, folder)
    except UserError as error:
        changes = [line.strip() for line in str(error).splitlines() if line.startswith("  ")]
        return f"was made with another config ({'; '.join(changes) or error})"
    return "was made from another set, or from another start" if is_finished else None

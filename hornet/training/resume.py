"""Where a run goes on: its newest checkpoint that was reached without the batches it leaves out.

`runs/NAME/skipped_batches.json` lists the windows of all attempts. A window is written there before anything else
follows from it, and stays, so a run that is killed and started again goes on with the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hornet.durable import sync_folder, write_text
from hornet.errors import UserError
from hornet.runs.directory import RunDirectory
from hornet.training.checkpoints.checkpoint import LATEST, Checkpoint, find_checkpoint, set_aside
from hornet.training.checkpoints.state import RunState
from hornet.training.config import GuardConfig
from hornet.training.data_steps import Windows, has_same_past, is_left_out
from hornet.training.process_group import errors_shared, tell_all
from hornet.world import World

BY_USER = "guard.skip_batches"


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run goes on."""

    checkpoint: Checkpoint | None
    """The checkpoint that is loaded; None to begin at step 0."""
    rows: Sequence[dict[str, Any]]
    """Of skipped_batches.json, as it is to be."""
    passed_over: Sequence[Path]
    """Whole checkpoints that do not fit; known to rank 0 only."""


def find_fitting_start(run: RunDirectory, config: GuardConfig, *, world: World) -> Start:
    """Return the newest checkpoint reached without the batches to leave out: the run's and `config`'s. Collective.

    Changes nothing. Raises UserError if there are checkpoints, but none fits.
    """
    rows = read_rows(run, world=world)
    rows += [{"first": first, "stop": stop, "by": BY_USER} for first, stop in list_new(rows, config)]
    return find_newest(run, rows, newest_step=None, world=world)


def find_newest(run: RunDirectory, rows: Sequence[dict[str, Any]], *, newest_step: int | None, world: World) -> Start:
    """Return the newest fitting checkpoint, no later than `newest_step` if given, for these windows. Collective."""
    windows: Windows = list_windows(rows)
    passed_over: list[Path] = []

    def require_fit(checkpoint: Checkpoint) -> None:
        if newest_step is not None and checkpoint.step > newest_step:
            passed_over.append(checkpoint.folder)
            raise UserError(f"{checkpoint.folder}: is not before step {newest_step + 1}, where the run must go back")
        if not has_same_past(checkpoint.step, checkpoint.state["skipped_batches"], windows):
            passed_over.append(checkpoint.folder)
            raise UserError(f"{checkpoint.folder}: was trained on other batches than {run.skipped_batches.name} leaves")

    checkpoint = find_checkpoint(run.checkpoints, world=world, require=require_fit)
    return Start(checkpoint=checkpoint, rows=rows, passed_over=passed_over)


def adopt(run: RunDirectory, start: Start, *, world: World) -> None:
    """Write the windows down and set aside the checkpoints that do not fit them. Not collective; rank 0 acts."""
    if not world.is_main:
        return
    if start.rows:
        run.write_skipped_batches(start.rows)
    if start.checkpoint is not None and start.passed_over:
        write_text(run.checkpoints / LATEST, start.checkpoint.folder.name)
        for folder in start.passed_over:
            set_aside(folder)
        sync_folder(run.checkpoints)


def begin_attempt(run: RunDirectory, state: RunState, *, world: World) -> None:
    """Put the windows in effect into `state`, and forget what was recorded beyond its step. Collective.

    Dropped steps whose batches are left out now will not come by again: they stay on record.
    """
    windows = state.skipped_batches = list_windows(read_rows(run, world=world))
    with errors_shared():
        run.forget_after(state.step)
        if world.is_main:
            rows = run.read("dropped_steps")
            kept = [row for row in rows if row["step"] <= state.step or is_left_out(row["data_step"], windows)]
            run.rewrite("dropped_steps", kept)


def list_windows(rows: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Return the windows of skipped_batches.json."""
    return [[row["first"], row["stop"]] for row in rows]


def list_new(rows: Sequence[dict[str, Any]], config: GuardConfig) -> list[tuple[int, int]]:
    """Return the windows that `config` leaves out and `rows` do not list."""
    return [window for window in config.skip_batches if list(window) not in list_windows(rows)]


def read_rows(run: RunDirectory, *, world: World) -> list[dict[str, Any]]:
    """Return the rows of skipped_batches.json, as rank 0 reads them. Collective."""
    rows: list[dict[str, Any]] = []
    with errors_shared():
        if world.is_main:
            rows = run.read_skipped_batches()
    return tell_all(rows)

"""Going back: which batches a run leaves out, which of its checkpoints fit that, and setting aside those that do not.

`runs/NAME/skipped_batches.json` lists the windows of all lives. A window is written there before anything else follows
from it, and stays, so a run that is killed and started again goes on with the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hornet.durable import sync_folder, write_text
from hornet.errors import UserError
from hornet.runs.directory import RunDirectory
from hornet.training.checkpoints.checkpoint import LATEST, Checkpoint, find_checkpoint, set_aside
from hornet.training.data_steps import Windows, count_data_steps, data_step_of, has_same_past, is_left_out
from hornet.training.guard import DroppedInARowError, GuardConfig
from hornet.training.loop import RunState
from hornet.training.process_group import errors_shared, tell_all
from hornet.world import World

BY_GUARD = "guard"
BY_USER = "guard.skip_batches"


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run goes on."""

    checkpoint: Checkpoint | None
    """None at the beginning."""
    rows: Sequence[dict[str, Any]]
    """Of skipped_batches.json, as it is to be."""
    passed_over: Sequence[Path]
    """Whole checkpoints that do not fit; known to rank 0 only."""


def find_fitting_start(run: RunDirectory, config: GuardConfig, *, world: World) -> Start:
    """Return the newest checkpoint reached without the batches to leave out: the run's and `config`'s. Collective.

    Changes nothing. Raises UserError if there are checkpoints, but none fits.
    """
    rows = _read_rows(run, world=world)
    rows += [{"first": first, "stop": stop, "by": BY_USER} for first, stop in _list_new(rows, config)]
    return _find(run, rows, newest_step=None, world=world)


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


def begin_life(run: RunDirectory, state: RunState, *, world: World) -> None:
    """Put the windows in effect into `state`, and forget what was recorded beyond its step. Collective.

    Dropped steps whose batches are left out now will not come by again: they stay on record.
    """
    windows = state.skipped_batches = list_windows(_read_rows(run, world=world))
    with errors_shared():
        run.forget_after(state.step)
        if world.is_main:
            rows = run.read("dropped_steps")
            kept = [row for row in rows if row["step"] <= state.step or is_left_out(row["data_step"], windows)]
            run.rewrite("dropped_steps", kept)


def go_back(run: RunDirectory, config: GuardConfig, spike: DroppedInARowError, *, world: World) -> Checkpoint:
    """Return the checkpoint from which the run goes on without the batches around a spike. Collective.

    Raises UserError if the run may not go back by itself (any more), or has no checkpoint early enough.
    """
    rows = _read_rows(run, world=world)
    state = spike.state
    num_rollbacks = sum(row["by"] == BY_GUARD for row in rows)
    if num_rollbacks >= config.max_rollbacks:
        raise UserError(
            f"{spike}, and the run has gone back {num_rollbacks} times (guard.max_rollbacks={config.max_rollbacks}); "
            f"the steps and their samples are in {run.path / 'dropped_steps.jsonl'}: go back by hand with "
            f"--rollback {data_step_of(max(0, spike.first_step - config.rollback_steps), state.skipped_batches)}, "
            "raise guard.max_rollbacks, or start a new run with a lower schedule.peak_lr"
        )
    start = _find_before(run, rows, spike, rollback_steps=config.rollback_steps, world=world)
    assert start.checkpoint is not None
    window: dict[str, Any] = {
        "first": data_step_of(start.checkpoint.step, state.skipped_batches),
        "stop": count_data_steps(state.step, state.skipped_batches) + config.num_batches_after_spike,
        "by": BY_GUARD,
        "dropped_steps": [spike.first_step + 1, state.step],
        "checkpoint": start.checkpoint.folder.name,
    }
    with errors_shared():
        # All that was passed over is later, and has trained on the window's first batch.
        adopt(run, replace(start, rows=[*rows, window]), world=world)
        run.append_event("rollback", step=state.step, to_step=start.checkpoint.step)
    if world.is_main:
        print(f"{spike}: going back, to leave out batches {window['first']} to {window['stop'] - 1}", flush=True)
    return start.checkpoint


def refuse_new_windows(run: RunDirectory, config: GuardConfig) -> None:
    """Raise UserError if a finished run is asked to leave out batches it has trained on."""
    new = _list_new(run.read_skipped_batches(), config)
    if new:
        raise UserError(
            f"{run.path}: is finished, so guard.skip_batches={[list(window) for window in new]} (or --rollback) has no "
            "effect; move its summary.json away to go back and train on"
        )


def list_windows(rows: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Return the windows of skipped_batches.json."""
    return [[row["first"], row["stop"]] for row in rows]


def _list_new(rows: Sequence[dict[str, Any]], config: GuardConfig) -> list[tuple[int, int]]:
    return [window for window in config.skip_batches if list(window) not in list_windows(rows)]


def _read_rows(run: RunDirectory, *, world: World) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with errors_shared():
        if world.is_main:
            rows = run.read_skipped_batches()
    return tell_all(rows)


def _find_before(
    run: RunDirectory, rows: Sequence[dict[str, Any]], spike: DroppedInARowError, *, rollback_steps: int, world: World
) -> Start:
    reason = "there is none"
    try:
        start = _find(run, rows, newest_step=spike.first_step - rollback_steps, world=world)
    except UserError as error:
        reason = str(error)
    else:
        if start.checkpoint is not None:
            return start
    raise UserError(
        f"{spike}, and no checkpoint lies guard.rollback_steps={rollback_steps} steps before the first ({reason}); "
        "lower it, or start a new run with a lower schedule.peak_lr or a smaller cadence.save_every_steps"
    )


def _find(run: RunDirectory, rows: Sequence[dict[str, Any]], *, newest_step: int | None, world: World) -> Start:
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

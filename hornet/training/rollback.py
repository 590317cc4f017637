"""Going back: leaving out the batches around a spike, from a checkpoint before them on.

Not here: where a run goes on otherwise, and what is written down of the windows (resume.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hornet.errors import UserError
from hornet.runs.directory import RunDirectory
from hornet.training.checkpoints.checkpoint import Checkpoint
from hornet.training.config import GuardConfig
from hornet.training.data_steps import count_data_steps, data_step_of
from hornet.training.guard import DroppedInARowError
from hornet.training.process_group import errors_shared
from hornet.training.resume import Start, adopt, find_newest, list_new, read_rows
from hornet.world import World

BY_GUARD = "guard"


def go_back(run: RunDirectory, config: GuardConfig, spike: DroppedInARowError, *, world: World) -> Checkpoint:
    """Return the checkpoint from which the run goes on without the batches around a spike. Collective.

    Raises UserError if the run may not go back by itself (any more), or has no checkpoint early enough.
    """
    rows = read_rows(run, world=world)
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
    new = list_new(run.read_skipped_batches(), config)
    if new:
        raise UserError(
            f"{run.path}: is finished, so guard.skip_batches={[list(window) for window in new]} (or --rollback) has no "
            "effect; move its summary.json away to go back and train on"
        )


def _find_before(
    run: RunDirectory, rows: Sequence[dict[str, Any]], spike: DroppedInARowError, *, rollback_steps: int, world: World
) -> Start:
    reason = "there is none"
    try:
        start = find_newest(run, rows, newest_step=spike.first_step - rollback_steps, world=world)
    except UserError as error:
        reason = str(error)
    else:
        if start.checkpoint is not None:
            return start
    raise UserError(
        f"{spike}, and no checkpoint lies guard.rollback_steps={rollback_steps} steps before the first ({reason}); "
        "lower it, or start a new run with a lower schedule.peak_lr or a smaller cadence.save_every_steps"
    )

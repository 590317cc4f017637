"""A run that begins as the branch of another, its trunk: at a checkpoint up to which both are the same to the bit.

Under schedule.shape=wsd no learning rate before the cooldown depends on the run's length, and no batch, random draw or
average does under any. So a run that differs from its trunk in length and cooldown alone is the trunk until its
cooldown begins. Whatever else would make the two differ is refused.
Not here: where a run goes on that has a checkpoint of its own (resume.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hornet.config import build_config, flatten_values, list_settings, to_values
from hornet.durable import read_json_lines
from hornet.errors import UserError
from hornet.runs.begun import CONFIG_NAME, list_departures_from, read_run_config
from hornet.runs.directory import RunDirectory
from hornet.training.checkpoints.checkpoint import (
    Checkpoint,
    Require,
    list_checkpoints,
    name_of,
    step_of,
    verify_checkpoint,
)
from hornet.training.config import ScheduleConfig
from hornet.training.data_steps import has_same_past
from hornet.training.process_group import errors_shared, tell_all
from hornet.training.schedule import Schedule, plan_schedule
from hornet.world import World

KEY = "run.branch_from"
FREE = ("run.name", "schedule.num_epochs", "schedule.min_lr", "schedule.cooldown_share", "schedule.cooldown")
"""Settings without effect before the cooldown."""
OF_BITS = ("zero.stage", "zero.bucket_elements", "zero.offload_optimizer", "model.kernels", "model.compile")
"""Settings that a resumed run may change and that yet decide about last bits, beside ranks and micro batch."""
ROWS = ("metrics", "norms", "evaluations", "dropped_steps")
"""What the trunk has recorded up to the branch, which is the branch's own past."""
EVENT = "branched"


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Where a run leaves its trunk."""

    trunk: Path
    """The trunk's run directory."""
    checkpoint: Checkpoint
    """That of the trunk's which the run goes on from."""


def find_branch(
    config: Any, schedule: Schedule, *, steps_per_epoch: float, require: Require, world: World
) -> Branch | None:
    """Return where a run leaves the trunk that its config names; None if it names none. Collective.

    `schedule` is the run's; `require` raises UserError of a checkpoint of another engine, network or set. Raises
    UserError if the run would not be, to the bit, the one that begins at step 0.
    """
    if config.run.branch_from is None:
        return None
    found: Branch | None = None
    with errors_shared():
        if world.is_main:
            try:
                found = _find(config, schedule, steps_per_epoch=steps_per_epoch, require=require, world=world)
            except UserError as error:
                raise UserError(f"{KEY}: {error}") from error
    return tell_all(found)


def begin_branch(run: RunDirectory, branch: Branch, *, world: World) -> None:
    """Give the run the trunk's rows up to the branch, and note it in the diary. Not collective; rank 0 acts."""
    if not world.is_main:
        return
    step, trunk = branch.checkpoint.step, branch.trunk
    for name in ROWS:
        rows = read_json_lines(trunk / f"{name}.jsonl")
        run.rewrite(name, [row for row in rows if row["step"] <= step])
    run.append_event(EVENT, step=step, trunk=str(trunk))
    print(f"{run.path}: is {trunk} up to step {step}, and begins there", flush=True)


def read_branch(run: RunDirectory) -> dict[str, Any] | None:
    """Return which trunk a run has left, and after which step, from its diary; None of a run that began at step 0."""
    events = [event for event in run.read("events") if event.get("event") == EVENT]
    return {"trunk": events[-1]["trunk"], "step": events[-1]["step"]} if events else None


def split_branch(text: str) -> tuple[Path, int | None]:
    """Return the trunk's folder and the step of `runs/TRUNK@step`; None where no step is named."""
    match = re.fullmatch(r"(.+)@(\d+)", text)
    return (Path(text), None) if match is None else (Path(match[1]), int(match[2]))


def _find(config: Any, schedule: Schedule, *, steps_per_epoch: float, require: Require, world: World) -> Branch:
    trunk, step = split_branch(config.run.branch_from)
    if not (trunk / CONFIG_NAME).exists():
        raise UserError(f"{trunk} is no run directory, it has no {CONFIG_NAME}")
    values = read_run_config(trunk)
    changes = [*_list_changes(config, trunk), *_list_changes_of_bits(config, values)]
    if changes:
        raise UserError(
            f"{trunk} was trained with other settings, so a branch would not be the run that begins at step 0:\n  "
            + "\n  ".join(changes)
            + f"\nundo the change, or leave {KEY} out"
        )
    source = str(trunk / CONFIG_NAME)
    other = plan_schedule(
        build_config(ScheduleConfig, values["schedule"], source=source), steps_per_epoch=steps_per_epoch
    )
    assert schedule.num_stable_steps is not None
    assert other.num_stable_steps is not None  # its shape is ours
    limit = min(schedule.num_stable_steps, other.num_stable_steps)
    whose = "this run's" if schedule.num_stable_steps == limit else f"{trunk}'s"
    if step is not None and step > limit:
        raise UserError(f"step {step} lies in {whose} cooldown, which begins after step {limit}; name an earlier one")
    checkpoint = _choose(trunk, step, limit=limit)
    require(checkpoint)
    _require_same_split(checkpoint, config, world=world)
    return Branch(trunk=trunk, checkpoint=checkpoint)


def _list_changes(config: Any, trunk: Path) -> list[str]:
    return [line for line in list_departures_from(config, trunk) if line.partition(":")[0] not in FREE]


def _list_changes_of_bits(config: Any, values: Mapping[str, Any]) -> Iterator[str]:
    settings = list_settings(type(config))
    now, before = (dict(flatten_values(each, settings=settings)) for each in (to_values(config), values))
    for key in OF_BITS:
        if key in now and key in before and now[key] != before[key]:
            yield f"{key}: {before[key]!r} -> {now[key]!r} (of the last bits; it may change once the branch has begun)"


def _choose(trunk: Path, step: int | None, *, limit: int) -> Checkpoint:
    root = trunk / "checkpoints"
    folders = list_checkpoints(root) if root.exists() else []
    steps = [step_of(folder) for folder in folders]
    there = f"it has those of steps {', '.join(map(str, steps))}" if steps else "it has none"
    keep = "let the trunk keep it (cadence.save_every_steps, checkpoints.every_steps)"
    if step is not None:
        if step not in steps:
            raise UserError(f"{trunk} has no checkpoint of step {step}, {there}; {keep}")
        return verify_checkpoint(root / name_of(step))
    reasons = []
    for folder in reversed([folder for folder in folders if step_of(folder) <= limit]):
        try:
            return verify_checkpoint(folder)
        except UserError as error:
            reasons.append(str(error))
    remark = "; ".join(reasons) or there
    raise UserError(
        f"{trunk} has no whole checkpoint up to step {limit}, after which a cooldown begins ({remark}); {keep}"
    )


def _require_same_split(checkpoint: Checkpoint, config: Any, *, world: World) -> None:
    """Raise UserError if the trunk's steps saw other batches, or summed them up in another order."""
    windows = checkpoint.state["skipped_batches"]
    if not has_same_past(checkpoint.step, windows, config.guard.skip_batches):
        raise UserError(
            f"{checkpoint.folder} was trained without the batches {windows}, this run leaves out "
            f"{[list(window) for window in config.guard.skip_batches]}; name the same in guard.skip_batches"
        )
    wanted = {"num_ranks": world.num_ranks, "micro_batch_size": config.micro_batch_size}
    for key, value in wanted.items():
        saved = checkpoint.description.get(key)
        if value not in ("auto", saved):
            raise UserError(
                f"{checkpoint.folder} was trained with {key}={saved}, this run has {value}; begin it as the trunk was "
                "trained, it may go on otherwise"
            )

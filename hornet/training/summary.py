"""What a finished run says of itself: summary.json, and the table it ends with."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hornet.errors import UserError
from hornet.formats import MADE_BY, PROGRAM
from hornet.quantities import format_seconds
from hornet.runs.attempts import find_attempts, find_step_seconds
from hornet.runs.begun import refuse_changes
from hornet.runs.directory import RunDirectory, read_summary
from hornet.runs.rows import Row
from hornet.training.branch import read_branch
from hornet.training.checkpoints.state import RunState
from hornet.training.components import Components
from hornet.training.data_steps import count_data_steps
from hornet.training.evaluate import find_best, format_evaluation
from hornet.training.rollback import refuse_new_windows
from hornet.world import World


def finish(run: RunDirectory, components: Components, state: RunState, *, seconds: float, world: World) -> None:
    """Write summary.json and the last status, and show the summary."""
    rows = run.read("metrics")
    utilisations = [row["mfu"] for row in rows if row.get("mfu") is not None]
    evaluations = [row for row in run.read("evaluations") if row["step"] == state.step]
    images_seen = state.step * components.global_batch_size
    run_seconds, num_attempts = measure_attempts(run, rows, now=time.time())  # of a lost diary nothing
    summary = {
        "name": run.path.name,
        MADE_BY: PROGRAM,
        **components.about,
        "branched_from": read_branch(run),
        "steps": state.step,
        "epochs": count_data_steps(state.step, state.skipped_batches) / components.steps_per_epoch,
        "images_seen": images_seen,
        "num_dropped_images": state.num_skipped_steps * components.global_batch_size,
        "training_flops": images_seen * components.flops_per_image,
        "num_parameters": sum(torch.Size(shape).numel() for shape in components.parameter_shapes.values()),
        "num_ranks": world.num_ranks,
        "loss": rows[-1]["loss"] if rows else None,
        "evaluations": evaluations,
        "best_evaluation": find_best(evaluations),
        "images_per_second": _median([row["images_per_second"] for row in rows]),
        "mfu": _median(utilisations) if utilisations else None,
        "data_share_of_step": _median([row["data_seconds"] / row["step_seconds"] for row in rows]),
        "num_bad_samples": state.num_bad_samples,
        "num_skipped_steps": state.num_skipped_steps,
        "skipped_batches": state.skipped_batches,
        "seconds": round(max(run_seconds, seconds), 3),
        "num_attempts": num_attempts,
        "seconds_in_last_attempt": round(seconds, 3),
        "checkpoint": f"checkpoints/step_{state.step:08d}",
        "identity": dict(components.identity),
    }
    run.write_summary(summary)
    run.write_status("finished", step=state.step)
    if world.is_main:
        print(format_summary(summary, folder=str(run.path)), flush=True)


def measure_attempts(run: RunDirectory, metrics: Sequence[Row], *, now: float) -> tuple[float, int]:
    """Return the seconds of all attempts together, each from its start to its end, and how many there were.

    The last one lasts until `now`, in unix seconds. Of one that was killed, what is known to have been done counts.
    """
    events = [*run.read("events"), {"time": now, "event": "finished"}]
    attempts = find_attempts(events, metrics, step_seconds=find_step_seconds(metrics))
    return sum(attempt.seconds for attempt in attempts), len(attempts)


def format_summary(summary: Mapping[str, Any], *, folder: str) -> str:
    """Return the table a finished run ends with, whatever release has written its summary."""
    mfu = summary.get("mfu")  # since 0.1.0
    rows = [
        ("run", folder),
        ("steps", f"{summary['steps']}  ({summary['epochs']:.1f} epochs, {summary['images_seen']} images)"),
        ("parameters", f"{summary['num_parameters'] / 1e6:.3f} M"),
        ("last loss", "not finite" if summary["loss"] is None else f"{summary['loss']:.4f}"),
    ]
    for row in summary["evaluations"]:
        rows.append((f"{row['weights']} weights", format_evaluation(row)))
    rows += [
        ("speed", f"{summary['images_per_second']:.0f} images/s"),
        ("MFU", "unknown for this device" if mfu is None else f"{100 * mfu:.1f} %"),
        ("waiting for data", f"{100 * summary['data_share_of_step']:.0f} % of the time"),
        ("bad samples", str(summary["num_bad_samples"])),
        ("skipped steps", str(summary["num_skipped_steps"])),
        ("time", _format_time(summary)),
        ("checkpoint", summary["checkpoint"]),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)


def _format_time(summary: Mapping[str, Any]) -> str:
    # Its name before 0.2.0, when that of all attempts was not there.
    last = format_seconds(summary.get("seconds_in_last_attempt", summary.get("seconds_in_last_life")))
    if summary.get("num_attempts", 1) == 1:
        return f"{last} in the last attempt"
    return f"{format_seconds(summary['seconds'])} in {summary['num_attempts']} attempts, {last} in the last"


def report_finished(run: RunDirectory, config: Any, *, world: World) -> bool:
    """Return whether the run is finished already, and say so: the same command may be given any number of times.

    Raises UserError if the finished run had another config, or trained on batches that are to be left out.
    """
    summary = read_summary(run.path)
    if summary is None:
        return False
    refuse_changes(config, run.path)
    refuse_new_windows(run, config.guard)
    if world.is_main:
        print(f"{run.path}: already finished\n{format_summary(summary, folder=str(run.path))}", flush=True)
    return True


def _median(values: Sequence[float]) -> float:
    if not values:
        raise UserError("the run has no rows in metrics.jsonl")
    return sorted(values)[len(values) // 2]

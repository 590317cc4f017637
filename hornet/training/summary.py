"""What a finished run says of itself: summary.json, and the table it ends with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hornet.errors import UserError
from hornet.formats import MADE_BY, PROGRAM
from hornet.quantities import format_seconds
from hornet.runs.directory import RunDirectory
from hornet.training.components import Components
from hornet.training.data_steps import count_data_steps
from hornet.training.evaluate import format_evaluation
from hornet.training.loop import RunState
from hornet.training.rollback import refuse_new_windows
from hornet.world import World


def finish(run: RunDirectory, components: Components, state: RunState, *, seconds: float, world: World) -> None:
    """Write summary.json and the last status, and show the summary."""
    rows = run.read("metrics")
    utilisations = [row["mfu"] for row in rows if row.get("mfu") is not None]
    summary = {
        "name": run.path.name,
        MADE_BY: PROGRAM,
        "steps": state.step,
        "epochs": count_data_steps(state.step, state.skipped_batches) / components.steps_per_epoch,
        "images_seen": state.step * components.global_batch_size,
        "num_parameters": sum(torch.Size(shape).numel() for shape in components.parameter_shapes.values()),
        "num_ranks": world.num_ranks,
        "loss": rows[-1]["loss"] if rows else None,
        "evaluations": [row for row in run.read("evaluations") if row["step"] == state.step],
        "images_per_second": _median([row["images_per_second"] for row in rows]),
        "mfu": _median(utilisations) if utilisations else None,
        "data_share_of_step": _median([row["data_seconds"] / row["step_seconds"] for row in rows]),
        "num_bad_samples": state.num_bad_samples,
        "num_skipped_steps": state.num_skipped_steps,
        "skipped_batches": state.skipped_batches,
        "seconds_in_last_attempt": round(seconds, 3),
        "checkpoint": f"checkpoints/step_{state.step:08d}",
        "identity": dict(components.identity),
    }
    run.write_summary(summary)
    run.write_status("finished", step=state.step)
    if world.is_main:
        print(format_summary(summary, folder=str(run.path)), flush=True)


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
    # Its name before 0.2.0.
    seconds = summary.get("seconds_in_last_attempt", summary.get("seconds_in_last_life"))
    rows += [
        ("speed", f"{summary['images_per_second']:.0f} images/s"),
        ("MFU", "unknown for this device" if mfu is None else f"{100 * mfu:.1f} %"),
        ("waiting for data", f"{100 * summary['data_share_of_step']:.0f} % of the time"),
        ("bad samples", str(summary["num_bad_samples"])),
        ("skipped steps", str(summary["num_skipped_steps"])),
        ("time", f"{format_seconds(seconds)} in the last attempt"),
        ("checkpoint", summary["checkpoint"]),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)


def report_finished(run: RunDirectory, config: Any, *, world: World) -> bool:
    """Return whether the run is finished already, and say so: the same command may be given any number of times.

    Raises UserError if the finished run had another config, or trained on batches that are to be left out.
    """
    summary = run.read_summary()
    if summary is None:
        return False
    run.refuse_changes(config)
    refuse_new_windows(run, config.guard)
    if world.is_main:
        print(f"{run.path}: already finished\n{format_summary(summary, folder=str(run.path))}", flush=True)
    return True


def _median(values: Sequence[float]) -> float:
    if not values:
        raise UserError("the run has no rows in metrics.jsonl")
    return sorted(values)[len(values) // 2]

"""One life of a run: find where it stands, go on from there, finish it. Shared by the stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn

from hornet.batch import Batch
from hornet.errors import UserError
from hornet.run_directory import RunDirectory
from hornet.training.checkpoint import Checkpoint, load_checkpoint
from hornet.training.checkpointer import Checkpointer, RetentionConfig
from hornet.training.data_steps import count_data_steps, split_steps
from hornet.training.evaluate import Evaluation, format_evaluation
from hornet.training.guard import DroppedInARowError, GuardConfig, NumericalGuard
from hornet.training.loop import CadenceConfig, Engine, RunState, Weights, Wish, is_evaluation_due, train
from hornet.training.metrics import MetricsRecorder, format_seconds
from hornet.training.pictures import choose_filters, draw_filters
from hornet.training.process_group import errors_shared, tell_all
from hornet.training.rollback import adopt, begin_life, find_fitting_start, go_back, refuse_new_windows
from hornet.training.schedule import Schedule
from hornet.world import World


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a stage brings to a session."""

    engine: Engine
    """Model, optimizer and ranks."""
    identity: Mapping[str, Any]
    """What a checkpoint must have been written with to fit this run; JSON values."""
    description: Mapping[str, Any]
    """What a reader of the checkpoint's weights needs; JSON values."""
    parameter_shapes: Mapping[str, tuple[int, ...]]
    """Every parameter's whole shape, by name."""
    iterate: Callable[[int, int], Iterator[Batch]]
    """Called with (first step, number of steps): this rank's micro batches from there on."""
    num_micro_steps: int
    """Micro batches a step."""
    steps_per_epoch: float
    """Optimizer steps per pass over the data."""
    global_batch_size: int
    """Images a step, over all ranks."""
    schedule: Schedule
    """Number of steps and learning rates."""
    cadence: CadenceConfig
    """How often to log, save, evaluate, draw."""
    checkpoints: RetentionConfig
    """How checkpoints are written, and which are kept."""
    weight_decay: float
    """For the record."""
    max_bad_sample_rate: float
    """Share of bad samples above which the run fails."""
    guard: GuardConfig
    """Which steps are dropped, and what follows from it."""
    evaluate: Callable[[nn.Module], Evaluation] | None
    """Evaluates a model in eval mode; None where there is no labelled set."""
    evaluated_weights: Sequence[Weights]
    """Which weights to evaluate."""
    draw_images: Callable[[Batch, int], Tensor]
    """Called with a micro batch and its 0-based step: a picture (3, H, W) of what the network saw."""


def find_start(run: RunDirectory, config: Any, *, world: World) -> Checkpoint | None:
    """Open the run directory and return the checkpoint to go on from. Collective.

    Later ones, which were trained on batches that are left out now, are set aside. Raises UserError if the run would go
    on with another config.
    """
    start = find_fitting_start(run, config.guard, world=world)
    checkpoint = start.checkpoint
    with errors_shared():
        run.prepare(config, has_checkpoint=checkpoint is not None)
        run.write_status("starting", step=0 if checkpoint is None else checkpoint.step)
        adopt(run, start, world=world)
    return checkpoint


def run_session(
    run: RunDirectory, parts: Parts, *, checkpoint: Checkpoint | None, world: World, device: torch.device
) -> None:
    """Train from `checkpoint` (or from the engine's fresh weights) to the end and write the summary. Collective.

    Where the guard gives a stretch up, the run goes back to an earlier checkpoint, as far as its config allows.
    """
    while True:
        try:
            _train_from(run, parts, checkpoint=checkpoint, world=world, device=device)
            return
        except DroppedInARowError as spike:
            checkpoint = go_back(run, parts.guard, spike, world=world)


def _train_from(
    run: RunDirectory, parts: Parts, *, checkpoint: Checkpoint | None, world: World, device: torch.device
) -> None:
    state = RunState()
    if checkpoint is not None:
        load_checkpoint(checkpoint, engine=parts.engine, state=state, identity=parts.identity)
    begin_life(run, state, world=world)
    if world.is_main:
        print(describe_life(run, parts, state, world=world), flush=True)
    recorder = MetricsRecorder(
        run,
        world=world,
        first_step=state.step,
        num_steps=parts.schedule.num_steps,
        steps_per_epoch=parts.steps_per_epoch,
        global_batch_size=parts.global_batch_size,
        weight_decay=parts.weight_decay,
        max_bad_sample_rate=parts.max_bad_sample_rate,
        device=device,
    )
    checkpointer = _make_checkpointer(run, parts, world=world)
    started = time.perf_counter()

    def look_around(_: RunState) -> Wish:
        checkpointer.poll()
        return Wish.GO_ON

    try:
        _evaluate(parts, recorder, state, weights=_find_missing_evaluations(run, parts, state))
        train(
            engine=parts.engine,
            batches=_fetch_together(parts, state),
            num_micro_steps=parts.num_micro_steps,
            state=state,
            schedule=parts.schedule,
            cadence=parts.cadence,
            guard=NumericalGuard(parts.guard, run=run, state=state, world=world),
            recorder=recorder,
            look_around=look_around,
            save=checkpointer.save,
            evaluate=lambda state: _evaluate(parts, recorder, state, weights=parts.evaluated_weights),
            draw=lambda state, batches: _draw(parts, recorder, state, batches),
        )
        checkpointer.finish()
    finally:
        recorder.close()
        checkpointer.close()
    _finish(run, parts, state, seconds=time.perf_counter() - started, world=world)


def describe_life(run: RunDirectory, parts: Parts, state: RunState, *, world: World) -> str:
    """Return the line a life of a run begins with."""
    micro_batch_size = parts.global_batch_size // (world.num_ranks * parts.num_micro_steps)
    num_parameters = sum(torch.Size(shape).numel() for shape in parts.parameter_shapes.values())
    plan = (
        f"{parts.identity['model']}, {num_parameters / 1e6:.3f} M parameters; {parts.schedule.num_steps} steps of "
        f"{parts.global_batch_size} images: {world.num_ranks} ranks x {parts.num_micro_steps} micro steps x "
        f"{micro_batch_size}"
    )
    if state.step == 0:
        return f"starting {run.path}\n{plan}"
    left_out = "".join(f", without batches {first} to {stop - 1}" for first, stop in state.skipped_batches)
    return f"{plan}\nresuming {run.path} from step {state.step}{left_out}"


def _fetch_together(parts: Parts, state: RunState) -> Iterator[Batch]:
    """Yield this rank's micro batches; an error of one rank's data ends all ranks before the step is computed."""
    pieces = split_steps(state.step, parts.schedule.num_steps - state.step, state.skipped_batches)
    batches = chain.from_iterable(parts.iterate(first, count) for first, count in pieces)
    while True:
        with errors_shared():
            of_step = list(islice(batches, parts.num_micro_steps))
        if not of_step:
            return
        yield from of_step


def _make_checkpointer(run: RunDirectory, parts: Parts, *, world: World) -> Checkpointer:
    def find_best(steps: Collection[int]) -> int | None:
        rows = [row for row in run.read("evaluations") if row["step"] in steps]
        return max(rows, key=lambda row: row["top1"])["step"] if rows else None

    return Checkpointer(
        run.checkpoints,
        engine=parts.engine,
        identity=parts.identity,
        description=parts.description,
        world=world,
        retention=parts.checkpoints,
        find_best=find_best,
    )


def _find_missing_evaluations(run: RunDirectory, parts: Parts, state: RunState) -> Sequence[Weights]:
    """Return what an earlier life was killed before it could evaluate, after saving this very step."""
    if parts.evaluate is None or not is_evaluation_due(state.step, schedule=parts.schedule, cadence=parts.cadence):
        return ()
    done = [row["weights"] for row in run.read("evaluations") if row["step"] == state.step]
    return tell_all([weights for weights in parts.evaluated_weights if weights not in done])


def _evaluate(parts: Parts, recorder: MetricsRecorder, state: RunState, *, weights: Sequence[Weights]) -> None:
    if parts.evaluate is None:
        return
    for kind in weights:
        with parts.engine.evaluation_model(kind) as model:
            evaluation = parts.evaluate(model)
        recorder.show_evaluation({"step": state.step, "weights": kind, **asdict(evaluation)})


def _draw(parts: Parts, recorder: MetricsRecorder, state: RunState, batches: Sequence[Batch]) -> None:
    filters = parts.engine.read_parameters(choose_filters(parts.parameter_shapes))
    if recorder.board is None:
        return
    recorder.board.add_image("augmented_images", parts.draw_images(batches[0], state.step - 1), state.step)
    for name, weight in filters.items():
        recorder.board.add_image(f"filters/{name}", draw_filters(weight), state.step)


def _finish(run: RunDirectory, parts: Parts, state: RunState, *, seconds: float, world: World) -> None:
    rows = run.read("metrics")
    summary = {
        "name": run.path.name,
        "steps": state.step,
        "epochs": count_data_steps(state.step, state.skipped_batches) / parts.steps_per_epoch,
        "images_seen": state.step * parts.global_batch_size,
        "num_parameters": sum(torch.Size(shape).numel() for shape in parts.parameter_shapes.values()),
        "num_ranks": world.num_ranks,
        "loss": rows[-1]["loss"] if rows else None,
        "evaluations": [row for row in run.read("evaluations") if row["step"] == state.step],
        "images_per_second": _median([row["images_per_second"] for row in rows]),
        "data_share_of_step": _median([row["data_seconds"] / row["step_seconds"] for row in rows]),
        "num_bad_samples": state.num_bad_samples,
        "num_skipped_steps": state.num_skipped_steps,
        "skipped_batches": state.skipped_batches,
        "seconds_in_last_life": round(seconds, 3),
        "checkpoint": f"checkpoints/step_{state.step:08d}",
        "identity": dict(parts.identity),
    }
    run.write_summary(summary)
    run.write_status("finished", step=state.step)
    if world.is_main:
        print(format_summary(summary, folder=str(run.path)), flush=True)


def format_summary(summary: Mapping[str, Any], *, folder: str) -> str:
    """Return the table a finished run ends with."""
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
        ("waiting for data", f"{100 * summary['data_share_of_step']:.0f} % of the time"),
        ("bad samples", str(summary["num_bad_samples"])),
        ("skipped steps", str(summary["num_skipped_steps"])),
        ("time", f"{format_seconds(summary['seconds_in_last_life'])} in the last life"),
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

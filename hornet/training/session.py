"""One attempt of a run: find where it stands, go on from there, finish it. Shared by the stages."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import chain
from typing import Any

import torch
from torch import nn

from hornet.batch import Batch
from hornet.runs.directory import RunDirectory
from hornet.training.branch import Branch, begin_branch
from hornet.training.checkpoints.checkpoint import Checkpoint, load_checkpoint, name_of
from hornet.training.checkpoints.saver import Checkpointer
from hornet.training.checkpoints.state import RunState
from hornet.training.components import Components
from hornet.training.config import Weights
from hornet.training.data_steps import split_steps
from hornet.training.evaluate import find_best
from hornet.training.guard import DroppedInARowError, NumericalGuard
from hornet.training.image_results import FOLDER, ImageResults
from hornet.training.interruption import Interruption, explain_stop
from hornet.training.loop import Request, is_evaluation_due, train
from hornet.training.metrics import MetricsRecorder
from hornet.training.process_group import errors_shared, tell_all
from hornet.training.profile import StepProfiler
from hornet.training.rendering import choose_filters, render_filters
from hornet.training.resume import adopt, begin_attempt, find_fitting_start
from hornet.training.rollback import go_back
from hornet.training.step_message import Feed, StepExchange
from hornet.training.summary import finish
from hornet.training.watchdog import Watchdog
from hornet.world import World


@contextmanager
def hold_lock(run: RunDirectory, *, world: World) -> Iterator[None]:
    """Be the only job in the run directory for the length of the block. Collective.

    Raises UserError if another job is at work there.
    """
    with ExitStack() as held:
        with errors_shared():
            if world.is_main:
                held.enter_context(run.lock)
        yield


def find_start(
    run: RunDirectory,
    config: Any,
    *,
    require: Callable[[Checkpoint], None],
    find_branch: Callable[[], Branch | None],
    world: World,
) -> Checkpoint | None:
    """Open the run directory and return the checkpoint to go on from: the run's own, else its trunk's. Collective.

    Later ones, which were trained on batches that are left out now, are set aside. Raises UserError if the run would go
    on with another config, and what `require` and `find_branch` raise; the run directory is then as it was.
    """
    start = find_fitting_start(run, config.guard, world=world)
    branch = find_branch() if start.checkpoint is None else None
    checkpoint = start.checkpoint if branch is None else branch.checkpoint
    with errors_shared():
        if start.checkpoint is not None:
            require(start.checkpoint)
        run.prepare(config, has_checkpoint=start.checkpoint is not None)
        step = 0 if checkpoint is None else checkpoint.step
        recorded = [row["step"] for row in run.read("metrics")]
        lost_steps = max(0, *recorded[-1:], step) - step
        run.write_status("starting", step=step, num_ranks=world.num_ranks, lost_steps=lost_steps)
        adopt(run, start, world=world)
        if branch is not None:
            begin_branch(run, branch, world=world)
    return checkpoint


def run_session(
    run: RunDirectory,
    components: Components,
    *,
    checkpoint: Checkpoint | None,
    world: World,
    device: torch.device,
    watchdog: Watchdog,
) -> None:
    """Train from `checkpoint` (or from the engine's fresh weights) until the end or a request to stop. Collective.

    Where the guard gives a stretch up, the run goes back to an earlier checkpoint, as far as its config allows.
    """
    while True:
        try:
            _train_from(run, components, checkpoint=checkpoint, world=world, device=device, watchdog=watchdog)
            return
        except DroppedInARowError as spike:
            checkpoint = go_back(run, components.guard, spike, world=world)


def _train_from(
    run: RunDirectory,
    components: Components,
    *,
    checkpoint: Checkpoint | None,
    world: World,
    device: torch.device,
    watchdog: Watchdog,
) -> None:
    state = RunState()
    if checkpoint is not None:
        load_checkpoint(checkpoint, engine=components.engine, state=state, identity=components.identity)
    begin_attempt(run, state, world=world)
    if world.is_main:
        print(describe_attempt(run, components, state, world=world), flush=True)
    recorder = MetricsRecorder(run, components, world=world, first_step=state.step, device=device)
    profiler = StepProfiler(components.profile, run, world=world, device=device)
    checkpointer = _make_checkpointer(run, components, world=world)
    interruption = Interruption(run.path, world=world, stop_at=run.config.stop_at)
    feed = Feed(_iterate(components, state), num_micro_steps=components.num_micro_steps, clock=components.engine.clock)
    started = time.perf_counter()

    def check_requests(state: RunState) -> Request:
        interruption.end_step()
        watchdog.count(state.step)
        profiler.count(state.step)
        checkpointer.poll()
        return interruption.request

    def save(state: RunState) -> None:
        saving = time.perf_counter()
        checkpointer.save(state)
        run.append_event("save", step=state.step, seconds=time.perf_counter() - saving)

    evaluate = watchdog.phase("evaluate")(functools.partial(_evaluate, run, components, recorder, world))

    def evaluate_saved(state: RunState) -> None:
        # What is being saved counts first: an evaluation lasts long, and may fail, or be killed.
        watchdog.phase("save")(checkpointer.finish)()
        evaluate(state, weights=components.evaluated_weights)

    is_finished = False
    try:
        interruption.agree_alone(save_seconds=checkpointer.longest_save_seconds)
        if (
            check_requests(state) is not Request.STOP
        ):  # asked while the run was starting, or by a STOP file that is there
            evaluate(state, weights=_find_missing_evaluations(run, components, state))
            is_finished = watchdog.phase("train")(train)(
                engine=components.engine,
                batches=feed,
                exchange=StepExchange(
                    feed, interruption, get_save_seconds=lambda: checkpointer.longest_save_seconds, world=world
                ),
                state=state,
                schedule=components.schedule,
                cadence=components.cadence,
                guard=NumericalGuard(components.guard, run=run, state=state, world=world),
                recorder=recorder,
                check_requests=check_requests,
                save=watchdog.phase("save")(save),
                evaluate=evaluate_saved,
                render=lambda state, batches: _render(components, recorder, state, batches, world=world),
            )
        watchdog.phase("save")(checkpointer.finish)()
        profiler.close()
    finally:
        recorder.close()
        checkpointer.close()
    if is_finished:
        finish(run, components, state, seconds=time.perf_counter() - started, world=world)
    else:
        _stop(run, state, reason=interruption.reason, world=world)


def describe_attempt(run: RunDirectory, components: Components, state: RunState, *, world: World) -> str:
    """Return the line an attempt of a run begins with."""
    micro_batch_size = components.global_batch_size // (world.num_ranks * components.num_micro_steps)
    num_parameters = sum(torch.Size(shape).numel() for shape in components.parameter_shapes.values())
    plan = (
        f"{components.identity['model']}, {num_parameters / 1e6:.3f} M parameters; "
        f"{components.schedule.num_steps} steps of {components.global_batch_size} images: "
        f"{world.num_ranks} ranks x {components.num_micro_steps} micro steps x {micro_batch_size}"
    )
    if state.step == 0:
        return f"starting {run.path}\n{plan}"
    left_out = "".join(f", without batches {first} to {stop - 1}" for first, stop in state.skipped_batches)
    return f"{plan}\nresuming {run.path} from step {state.step}{left_out}"


def _iterate(components: Components, state: RunState) -> Iterator[Batch]:
    """Yield this rank's micro batches from the state's step to the end of the run."""
    pieces = split_steps(state.step, components.schedule.num_steps - state.step, state.skipped_batches)
    return chain.from_iterable(components.iterate(first, count) for first, count in pieces)


def _make_checkpointer(run: RunDirectory, components: Components, *, world: World) -> Checkpointer:
    def find_best_step(steps: Collection[int]) -> int | None:
        best = find_best(row for row in run.read("evaluations") if row["step"] in steps)
        return None if best is None else best["step"]

    return Checkpointer(
        run.checkpoints,
        engine=components.engine,
        identity=components.identity,
        description=components.description,
        world=world,
        retention=components.checkpoints,
        find_best=find_best_step,
        require_sole=run.lock.require,
    )


def _find_missing_evaluations(run: RunDirectory, components: Components, state: RunState) -> Sequence[Weights]:
    """Return what an earlier attempt was killed before it could evaluate, after saving this very step."""
    if components.evaluate is None or not is_evaluation_due(
        state.step, schedule=components.schedule, cadence=components.cadence
    ):
        return ()
    done = [row["weights"] for row in run.read("evaluations") if row["step"] == state.step]
    return tell_all([weights for weights in components.evaluated_weights if weights not in done])


def _render_predictions(
    components: Components, recorder: MetricsRecorder, state: RunState, model: nn.Module, *, kind: Weights, world: World
) -> None:
    if components.render_predictions is None:
        return
    with errors_shared():
        if world.is_main:
            recorder.show_image(f"predictions_{kind}", components.render_predictions(model), step=state.step)


def _evaluate(
    run: RunDirectory,
    components: Components,
    recorder: MetricsRecorder,
    world: World,
    state: RunState,
    *,
    weights: Sequence[Weights],
) -> None:
    if components.evaluate is None:
        return
    is_last = state.step == components.schedule.num_steps
    for kind in weights:
        started = time.perf_counter()
        images = ImageResults() if components.keeps_image_results and is_last else None
        with components.engine.evaluation_model(kind) as model:
            evaluation = components.evaluate(model, images)
            _render_predictions(components, recorder, state, model, kind=kind, world=world)
        if images is not None:  # before the row: a run that is killed between the two evaluates again
            run.write_file(f"{FOLDER}/{name_of(state.step)}_{kind}.npz", images.gather())
        recorder.show_evaluation({"step": state.step, "weights": kind, **asdict(evaluation)})
        run.append_event("evaluate", step=state.step, seconds=time.perf_counter() - started, weights=kind)


def _render(
    components: Components, recorder: MetricsRecorder, state: RunState, batches: Sequence[Batch], *, world: World
) -> None:
    filters = components.engine.read_parameters(choose_filters(components.filters))
    if not world.is_main:
        return
    recorder.show_image("augmented_images", components.render_images(batches[0], state.step - 1), step=state.step)
    for name, weight in filters.items():
        recorder.show_image(f"filter/{name}", render_filters(weight), step=state.step)


def _stop(run: RunDirectory, state: RunState, *, reason: str, world: World) -> None:
    run.write_status("stopped", step=state.step, reason=reason)
    if world.is_main:
        print(explain_stop(reason, step=state.step, run=run.path), flush=True)

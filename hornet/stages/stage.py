"""What pretraining and finetuning have in common: model, data and training brought together, and one attempt of a run.

A stage adds its engine and its starting weights (pretrain/stage.py, finetune/stage.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from hornet.data.loader import (
    EvaluationStream,
    TrainStream,
    open_evaluation_stream,
    open_train_stream,
)
from hornet.data.shared_memory import require_shared_memory
from hornet.model.build import build_model, list_shapes, require_known
from hornet.model.cost import count_training_flops, require_logits
from hornet.model.resize import get_filter_grids
from hornet.runs.directory import RunDirectory
from hornet.seeding import derive_seed
from hornet.shards.label_space import LabelSpace
from hornet.stages.attempt import Attempt, Opened, run_attempt
from hornet.stages.classification import (
    Classification,
    describe_weights,
    require_labels_of_checkpoint,
    require_same_labels,
)
from hornet.stages.config import StageConfig
from hornet.stages.micro_batch import EngineLoad, describe_split, fit_micro_batch
from hornet.stages.recipe import format_audit, list_departures
from hornet.stages.record import PARENT, describe_run, find_parent
from hornet.training.branch import find_branch
from hornet.training.checkpoints.checkpoint import Checkpoint, require_identity
from hornet.training.components import Components
from hornet.training.loop import Engine
from hornet.training.process_group import errors_shared
from hornet.training.schedule import plan_schedule
from hornet.training.statistics import require_statistics
from hornet.world import World

# Called with the fresh network, the task and the checkpoint that will be loaded, None if the run starts.
BuildEngine = Callable[[nn.Module, Classification, Checkpoint | None], Engine]


def run_stage(
    config: StageConfig,
    *,
    world: World,
    engine_identity: Mapping[str, Any],
    engine_load: EngineLoad,
    build_engine: BuildEngine,
    start_from: Path | None = None,
) -> None:
    """Run, or resume, a training run to its end. Every rank calls it.

    Start order: this run's own newest whole checkpoint, else its trunk's (`run.branch_from`), else what `build_engine`
    makes of the fresh network and, if there is one, of `start_from`.
    Raises UserError for bad input and for a run that must not go on.
    """

    def open_data(config: StageConfig) -> Opened:
        require_known(config.model)
        stream, labelled = open_streams(config, world=world)
        identity = {**engine_identity, **identify(config.model.name, stream)}

        def build(attempt: Attempt) -> Components:
            with errors_shared():
                audit_recipe(attempt.run, config, num_shards=stream.num_shards, world=world)
            task = make_task(config, stream=stream, labelled=labelled, world=world, attempt=attempt)
            model = build_network(config, num_classes=task.num_classes)
            flops_per_image = count_training_flops(model, config.data.transform.image_size)
            if config.micro_batch_size == "auto":
                task = fit_micro_batch(
                    model,
                    image_size=config.data.transform.image_size,
                    stream=stream,
                    task=task,
                    load=engine_load,
                    checkpoint=attempt.checkpoint,
                )
                with errors_shared():
                    require_room(stream, labelled, world=world)
            with errors_shared():
                require_statistics(model, stream.micro_batch_size)
            return assemble(
                config,
                stream=stream,
                task=task,
                parameter_shapes=list_shapes(model),  # it and the next before ZeRO-3 takes the parameters apart
                filters=list(get_filter_grids(model)),
                engine=build_engine(model, task, attempt.checkpoint),
                identity=identity,
                parent=find_parent(start_from, attempt.checkpoint, world=world),
                flops_per_image=flops_per_image,
            )

        require = functools.partial(require_fit, label_space=stream.label_space, identity=identity)
        schedule = plan_schedule(config.schedule, steps_per_epoch=stream.steps_per_epoch)
        epoch = stream.steps_per_epoch
        leave = functools.partial(find_branch, config, schedule, steps_per_epoch=epoch, require=require, world=world)
        evaluated_set = None if labelled is None else labelled.manifest_fingerprint
        return Opened(identity=identity, evaluated_set=evaluated_set, require=require, find_branch=leave, build=build)

    run_attempt(config, world=world, open_data=open_data)


def build_network(config: StageConfig, *, num_classes: int) -> nn.Module:
    """Return the run's network, fresh; raises UserError if it cannot take its images, those to evaluate on too."""
    size = config.data.transform.image_size
    seed = derive_seed("weights", config.run.seed)
    model = build_model(config.model, num_classes=num_classes, image_size=size, seed=seed)
    if config.evaluation is not None and (other := config.evaluation.image_size) != size:
        name = config.model.name
        require_logits(model, num_classes=num_classes, image_size=other, name=name, key="evaluation.image_size")
    return model


def require_fit(checkpoint: Checkpoint, *, label_space: LabelSpace, identity: Mapping[str, Any]) -> None:
    """Raise UserError if a run of these labels and this identity cannot go on from a checkpoint."""
    require_labels_of_checkpoint(checkpoint, label_space)
    require_identity(checkpoint, identity)


def identify(model: str, stream: TrainStream) -> dict[str, Any]:
    """Return what a checkpoint must have in common with a run that goes on from it, besides the engine."""
    return {
        "model": model,
        "label_space": stream.label_space.fingerprint,
        "stream": stream.manifest_fingerprint,
        "order_version": stream.order_version,
    }


def make_task(
    config: StageConfig,
    *,
    stream: TrainStream,
    labelled: EvaluationStream | None,
    world: World,
    attempt: Attempt,
) -> Classification:
    """Return what is learned, from the run's own settings and streams."""
    return Classification(
        mixing=config.mixing,
        label_space=stream.label_space,
        labelled=labelled,
        seed=config.run.seed,
        num_micro_steps=stream.num_micro_steps,
        world=world,
        device=attempt.device,
        beat=attempt.beat,
    )


def open_streams(config: StageConfig, *, world: World) -> tuple[TrainStream, EvaluationStream | None]:
    """Open the training set and the labelled one, if there is one, and see that they go together and have room."""
    stream = open_stream(config, world=world)
    labelled = open_evaluation_stream(config.evaluation, world=world) if config.evaluation is not None else None
    if labelled is not None:
        require_same_labels(labelled.label_space, stream.label_space)
    if config.micro_batch_size != "auto":  # else it is not known yet
        require_room(stream, labelled, world=world)
    return stream, labelled


def require_room(stream: TrainStream, labelled: EvaluationStream | None, *, world: World) -> None:
    """Raise UserError if the batches of this node's workers may not find room in /dev/shm."""
    streams = (stream,) if labelled is None else (stream, labelled)
    needed = [stream.count_shared_bytes() for stream in streams]
    require_shared_memory(needed, num_local_ranks=world.num_local_ranks)


def open_stream(config: StageConfig, *, world: World) -> TrainStream:
    """Open the training set; with micro_batch_size auto as one micro batch a step, until one is found that fits."""
    whole = max(1, config.global_batch_size // world.num_ranks)
    return open_train_stream(
        config.data,
        world=world,
        seed=config.run.seed,
        global_batch_size=config.global_batch_size,
        micro_batch_size=whole if config.micro_batch_size == "auto" else config.micro_batch_size,
    )


def audit_recipe(run: RunDirectory, config: StageConfig, *, num_shards: int, world: World) -> None:
    """Say and write down where the run departs from the published recipe that it names."""
    name = config.recipe.published
    if name is None:
        return
    departures = list_departures(config, num_shards=num_shards)
    run.write_recipe({"published": name, "departures": [asdict(departure) for departure in departures]})
    if world.is_main:
        print(format_audit(name, departures), flush=True)


def assemble(
    config: StageConfig,
    *,
    stream: TrainStream,
    task: Classification,
    engine: Engine,
    identity: Mapping[str, Any],
    parent: str | None,
    parameter_shapes: Mapping[str, tuple[int, ...]],
    flops_per_image: float,
    filters: Sequence[str],
) -> Components:
    """Say in the session's words what the run consists of."""
    return Components(
        engine=engine,
        identity=identity,
        description={
            **describe_weights(
                model=config.model,
                image_size=config.data.transform.image_size,
                mixing=config.mixing,
                label_space=stream.label_space,
            ),
            **describe_split(task.world, stream),
            **({} if parent is None else {PARENT: parent}),
        },
        about=describe_run(config, seed=config.run.seed, stream=stream, labelled=task.labelled, parent=parent),
        parameter_shapes=parameter_shapes,
        flops_per_image=flops_per_image,
        iterate=stream.iterate,
        num_micro_steps=stream.num_micro_steps,
        steps_per_epoch=stream.steps_per_epoch,
        global_batch_size=config.global_batch_size,
        schedule=plan_schedule(config.schedule, steps_per_epoch=stream.steps_per_epoch),
        cadence=config.cadence,
        checkpoints=config.checkpoints,
        weight_decay=config.optimizer.weight_decay,
        max_bad_sample_rate=config.data.max_bad_sample_rate,
        guard=config.guard,
        evaluate=None if task.labelled is None else task.evaluate,
        keeps_image_results=config.evaluation is not None and config.evaluation.per_image,
        evaluated_weights=("raw",) if config.optimizer.ema_decay is None else ("raw", "ema"),
        tracking=config.tracking,
        profile=config.profile,
        filters=filters,
        render_images=task.render_images,
    )

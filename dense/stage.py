"""What a run of a dense task is: a pretrained backbone, fresh heads -> the same loop, under Accelerate."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from dense.config import DenseConfig, InstancesConfig
from dense.instances import InstanceSegmentation
from dense.networks import build_network, get_backbone
from dense.segmentation import Segmentation
from hornet.data.instances import open_instance_evaluation, open_instance_stream
from hornet.data.loader import EvaluationStream, TrainStream
from hornet.data.segmentation import open_segmentation_evaluation, open_segmentation_stream
from hornet.data.shared_memory import require_shared_memory
from hornet.dense.uper_net import UPerNet
from hornet.dense.weights import fit_backbone
from hornet.model.build import list_shapes
from hornet.model.cost import count_training_flops
from hornet.model.resize import get_filter_grids
from hornet.stages.attempt import Attempt, Opened, run_attempt
from hornet.stages.classification import require_same_labels
from hornet.stages.pretrained import read_pretrained, tell_normalising
from hornet.stages.record import PARENT, describe_run, find_parent
from hornet.stages.stage import identify, require_fit
from hornet.training.average_precision import AveragePrecision
from hornet.training.components import Components
from hornet.training.engines.accelerate import AccelerateEngine
from hornet.training.process_group import errors_shared
from hornet.training.schedule import PolySchedule
from hornet.training.statistics import require_statistics
from hornet.world import World

AnyConfig = DenseConfig | InstancesConfig

TASK_NAMES: Mapping[str, str] = {"semantic": "semantic segmentation", "instances": "instance segmentation"}
"""What checkpoints, and people, call the values of `task`."""


def train_dense(config: AnyConfig, *, world: World) -> None:
    """Run, or resume, a run of either task to its end. Every rank calls it."""

    def open_data(config: AnyConfig) -> Opened:
        stream, labelled = open_streams(config, world=world)
        task = TASK_NAMES[config.task]
        identity = {"engine": "accelerate", "task": task, **identify(config.model.name, stream)}
        require = functools.partial(require_fit, label_space=stream.label_space, identity=identity)
        build = functools.partial(_build, config, stream=stream, labelled=labelled, identity=identity, world=world)
        return Opened(
            identity=identity,
            evaluated_set=None if labelled is None else labelled.manifest_fingerprint,
            require=require,
            find_branch=lambda: None,
            build=build,
        )

    run_attempt(config, world=world, open_data=open_data)


def open_streams(config: AnyConfig, *, world: World) -> tuple[TrainStream, EvaluationStream | None]:
    """Open the training set and the one to evaluate on; raises UserError, as where their classes differ."""
    order = {
        "seed": config.run.seed,
        "global_batch_size": config.global_batch_size,
        "micro_batch_size": config.micro_batch_size,
    }
    if isinstance(config, InstancesConfig):
        stream = open_instance_stream(config.data, world=world, **order)
    else:
        stream = open_segmentation_stream(config.data, world=world, **order)
    labelled = None
    if config.evaluation is not None:
        labelled = open_labelled(config, world=world)
        require_same_labels(labelled.label_space, stream.label_space)
    needed = [part.count_shared_bytes() for part in (stream, labelled) if part is not None]
    require_shared_memory(needed, num_local_ranks=world.num_local_ranks)
    return stream, labelled


def open_labelled(config: AnyConfig, *, world: World) -> EvaluationStream:
    """Open the set that the config names to evaluate on; raises UserError."""
    assert config.evaluation is not None
    if isinstance(config, InstancesConfig):
        labelled = open_instance_evaluation(config.evaluation, world=world)
        AveragePrecision(len(labelled.label_space))  # tells now, not after hours of training, what is not installed
        return labelled
    return open_segmentation_evaluation(config.evaluation, world=world)


def make_task(config: AnyConfig, **parts: Any) -> Segmentation | InstanceSegmentation:
    """Return what is learned; `parts` are the other fields of a DenseTask."""
    if isinstance(config, InstancesConfig):
        return InstanceSegmentation(config=config, **parts)
    return Segmentation(config=config, **parts)


def _build(
    config: AnyConfig,
    attempt: Attempt,
    *,
    stream: TrainStream,
    labelled: EvaluationStream | None,
    identity: dict[str, Any],
    world: World,
) -> Components:
    task = make_task(
        config,
        label_space=stream.label_space,
        labelled=labelled,
        num_micro_steps=stream.num_micro_steps,
        world=world,
        device=attempt.device,
        beat=attempt.beat,
    )
    with errors_shared():
        model = build_network(config, num_classes=len(stream.label_space))
        if isinstance(model, UPerNet):  # a detector's are taken over the regions of an image, which are many
            require_statistics(model, stream.micro_batch_size)
        if attempt.checkpoint is None and config.start is not None:
            found = read_pretrained(config.start.from_, weights=config.start.weights, label_space=None)
            num_resized = fit_backbone(get_backbone(model), found)
            report = [f"backbone from {config.start.from_}; {num_resized} filters resized; heads are fresh"]
            report += tell_normalising(found, mean=config.mean, std=config.std, key="")
            if world.is_main:
                print("\n".join(report), flush=True)
    flops_per_image = count_training_flops(model, find_typical_size(config, stream=stream))
    shapes, filters = list_shapes(model), list(get_filter_grids(model))
    start_from = None if config.start is None else config.start.from_
    parent = find_parent(start_from, attempt.checkpoint, world=world)
    return Components(
        engine=_build_engine(config, model, task=task),
        identity=identity,
        description=_describe_weights(config, stream=stream, parent=parent),
        about=describe_run(config, seed=config.run.seed, stream=stream, labelled=labelled, parent=parent),
        parameter_shapes=shapes,
        flops_per_image=flops_per_image,
        iterate=stream.iterate,
        num_micro_steps=stream.num_micro_steps,
        steps_per_epoch=stream.steps_per_epoch,
        global_batch_size=config.global_batch_size,
        schedule=PolySchedule(config=config.schedule),
        cadence=config.cadence,
        checkpoints=config.checkpoints,
        weight_decay=config.optimizer.weight_decay,
        max_bad_sample_rate=config.data.max_bad_sample_rate,
        guard=config.guard,
        evaluate=None if labelled is None else task.evaluate,
        keeps_image_results=False,
        evaluated_weights=("raw",) if config.optimizer.ema_decay is None else ("raw", "ema"),
        tracking=config.tracking,
        profile=config.profile,
        filters=filters,
        render_images=task.render_images,
        render_predictions=task.render_predictions if labelled is not None and config.num_rendered_images else None,
    )


def find_typical_size(config: AnyConfig, *, stream: TrainStream) -> int:
    """Return the edge of the square, pixels, that is as large as an image the network sees: costs are counted for it.

    A detector's images have no one size; that of a photograph of 4 to 3 at the mean of its shorter edges is taken.
    """
    if isinstance(config, InstancesConfig):
        edges = config.data.transform.short_edges
        return round(math.sqrt(4 / 3) * sum(edges) / len(edges))
    return stream.image_size


def _describe_weights(config: AnyConfig, *, stream: TrainStream, parent: str | None) -> dict[str, Any]:
    """Return what a reader of a checkpoint's weights needs besides them, as JSON values."""
    return {
        "task": TASK_NAMES[config.task],
        "model": config.model.name,
        "image_size": stream.image_size,
        "mean": list(config.mean),
        "std": list(config.std),
        "label_space": stream.label_space.to_json(),
        **({} if parent is None else {PARENT: parent}),
    }


def _build_engine(
    config: AnyConfig, model: nn.Module, *, task: Segmentation | InstanceSegmentation
) -> AccelerateEngine:
    if config.model.sync_batch_norm and task.world.num_ranks > 1 and task.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return AccelerateEngine(
        model,
        precision=config.precision,
        optimizer=config.optimizer,
        compute_loss=task.compute_loss,
        derive_step_seed=task.derive_step_seed,
        device=task.device,
        is_main=task.world.is_main,
    )

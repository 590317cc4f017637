"""A network of a run, measured anew: on another set, or seen in another way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from dense.config import DenseConfig, EvaluateInstancesConfig, EvaluateSegmenterConfig, InstancesConfig
from dense.networks import build_network
from dense.stage import make_task, open_labelled
from hornet.data.loader import EvaluationStream
from hornet.errors import UserError
from hornet.runs.begun import CONFIG_NAME
from hornet.shards.label_space import read_label_space
from hornet.stages.classification import require_same_labels
from hornet.training.average_precision import DetectionEvaluation
from hornet.training.checkpoints.checkpoint import MANIFEST, Checkpoint, find_newest, verify_checkpoint
from hornet.training.checkpoints.weights import read_weights
from hornet.training.confusion import SegmentationEvaluation
from hornet.training.detection_results import DetectionResults, read_category_ids
from hornet.training.process_group import choose_device, errors_shared, open_process_group
from hornet.world import World

AnyEvaluateConfig = EvaluateSegmenterConfig | EvaluateInstancesConfig


def evaluate_dense(
    trained: DenseConfig | InstancesConfig, config: AnyEvaluateConfig, *, world: World
) -> SegmentationEvaluation | DetectionEvaluation:
    """Evaluate a checkpoint of the run that `trained` describes, on any number of ranks. Every rank calls it.

    Raises UserError if there is no checkpoint, its classes are not those of the set, or results cannot be written.
    """
    device = choose_device(world)
    with open_process_group(world, device=device, purpose=f"an evaluation of {config.source}"):
        seen = replace(trained, evaluation=config.evaluation)  # type: ignore[arg-type]
        with errors_shared():
            checkpoint = _find_checkpoint(config)
            space = read_label_space(checkpoint.description["label_space"], source=checkpoint.folder / MANIFEST)
            labelled = open_labelled(seen, world=world)
            require_same_labels(labelled.label_space, space)
            parts = _prepare_results(config, labelled, world=world)
            network = build_network(trained, num_classes=len(space))
            network.load_state_dict(read_weights(checkpoint, weights=config.weights))
        task = make_task(
            seen,
            label_space=space,
            labelled=labelled,
            num_micro_steps=1,
            world=world,
            device=device,
            beat=lambda: None,
            **parts,
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            return task.evaluate(network.to(device).eval())


def _prepare_results(config: AnyEvaluateConfig, labelled: EvaluationStream, *, world: World) -> dict[str, Any]:
    """Return, as a part of a task, where results are wanted, if they are."""
    if not isinstance(config, EvaluateInstancesConfig) or config.results is None:
        return {}
    ids = read_category_ids(labelled.origin, num_classes=len(labelled.label_space), name=f"{config.evaluation.shards}")
    results = DetectionResults(folder=config.results, category_ids=ids)
    if world.is_main:
        results.prepare()
    return {"results": results}


def _find_checkpoint(config: AnyEvaluateConfig) -> Checkpoint:
    if not (config.source / CONFIG_NAME).exists():
        return verify_checkpoint(config.source)
    found = find_newest(config.source / "checkpoints")
    if found is None:
        raise UserError(f"{config.source}: has no checkpoint yet; wait for its first one")
    return found

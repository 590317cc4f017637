"""A segmenter of a run, measured anew: on another set, at other scales, by windows or whole."""

from __future__ import annotations

from dataclasses import replace

import torch

from dense.config import DenseConfig, EvaluateSegmenterConfig
from dense.segmentation import Segmentation
from dense.stage import build_segmenter
from hornet.data.segmentation import open_segmentation_evaluation
from hornet.errors import UserError
from hornet.shards.label_space import read_label_space
from hornet.stages.classification import require_same_labels
from hornet.training.checkpoints.checkpoint import MANIFEST, Checkpoint, find_newest, verify_checkpoint
from hornet.training.checkpoints.weights import read_weights
from hornet.training.confusion import SegmentationEvaluation
from hornet.training.process_group import choose_device, errors_shared, open_process_group
from hornet.world import World


def evaluate_segmenter(
    trained: DenseConfig, config: EvaluateSegmenterConfig, *, world: World
) -> SegmentationEvaluation:
    """Evaluate a checkpoint of the run that `trained` describes, on any number of ranks. Every rank calls it.

    Raises UserError if there is no checkpoint, or its classes are not those of the set.
    """
    device = choose_device(world)
    with open_process_group(world, device=device, purpose=f"an evaluation of {config.source}"):
        with errors_shared():
            checkpoint = _find_checkpoint(config)
            space = read_label_space(checkpoint.description["label_space"], source=checkpoint.folder / MANIFEST)
            labelled = open_segmentation_evaluation(config.evaluation, world=world)
            require_same_labels(labelled.label_space, space)
            network = build_segmenter(trained, num_classes=len(space))
            network.load_state_dict(read_weights(checkpoint, weights=config.weights))
        task = Segmentation(
            config=replace(trained, evaluation=config.evaluation),
            label_space=space,
            labelled=labelled,
            num_micro_steps=1,
            world=world,
            device=device,
            beat=lambda: None,
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            return task.evaluate(network.to(device).eval())


def _find_checkpoint(config: EvaluateSegmenterConfig) -> Checkpoint:
    if (config.source / MANIFEST).exists():
        return verify_checkpoint(config.source)
    found = find_newest(config.source / "checkpoints")
    if found is None:
        raise UserError(f"{config.source}: has no checkpoint yet; wait for its first one")
    return found

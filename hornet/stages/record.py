"""What a run's files say of it besides its numbers: whose weights it began with, its digest, the size of its set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hornet.config import Settings
from hornet.data.loader import EvaluationStream, TrainStream
from hornet.stages.pretrained import identify_weights
from hornet.stages.run_digest import digest_parts, has_start
from hornet.training.checkpoints.checkpoint import Checkpoint
from hornet.training.process_group import errors_shared, tell_all
from hornet.world import World

PARENT = "parent"
"""Key of a checkpoint's description: the digest of the weights that a finetuning has started from."""


def find_parent(start_from: Path | None, checkpoint: Checkpoint | None, *, world: World) -> str | None:
    """Return the digest of the weights that the run has started from; None if from fresh ones. Collective.

    Its checkpoints remember it, since what it started from may be gone; those of earlier releases do not: None.
    """
    if start_from is None or checkpoint is not None:
        return None if checkpoint is None else checkpoint.description.get(PARENT)
    parent = None
    with errors_shared():
        if world.is_main:
            parent = identify_weights(start_from)
    return tell_all(parent)


def describe_run(
    config: Settings, *, seed: int, stream: TrainStream, labelled: EvaluationStream | None, parent: str | None
) -> dict[str, Any]:
    """Return what summary.json says of a run from its config and its sets, as JSON values."""
    digest = None
    if parent is not None or not has_start(config):  # else it was begun by a release that did not remember it
        digest = digest_parts(
            config,
            train=stream.manifest_fingerprint,
            evaluation=None if labelled is None else labelled.manifest_fingerprint,
            parent=parent,
        )
    return {
        "digest": digest,
        "parent": parent,
        "seed": seed,
        "image_size": stream.image_size,
        "num_classes": len(stream.label_space),
        "num_samples": stream.num_samples,
        "num_left_over_samples": stream.num_samples - round(stream.steps_per_epoch * stream.global_batch_size),
    }

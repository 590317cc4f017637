"""Evaluating weights by themselves, apart from any training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from hornet.config import free
from hornet.data.augment.mixing import MixingConfig
from hornet.data.loader import EvaluationConfig, open_evaluation_stream
from hornet.errors import UserError
from hornet.model.build import ModelConfig, build_model
from hornet.model.variants import NATIVE_SIZE, VARIANTS, describe_preprocessing
from hornet.stages.classification import Classification, require_same_labels
from hornet.stages.pretrained import load_weights, read_pretrained, require_head_of
from hornet.training.evaluate import Evaluation
from hornet.training.loop import Weights
from hornet.training.process_group import choose_device, errors_shared, open_process_group
from hornet.world import World


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What to evaluate, on what."""

    source: Path
    """A run directory, a checkpoint folder in one, or a weight file."""
    weights: Weights = "raw"
    """Which weights of a checkpoint: the last step's, or their moving average."""
    model: str | None = None
    """For a weight file: its name in timm; a checkpoint knows its own."""
    label_space: str | None = None
    """For a weight file, what its head means: a known name, an `_info.json` or a list; null takes the set's own."""
    evaluation: EvaluationConfig
    """The labelled set."""
    precision: Literal["bf16", "fp32"] = "fp32"
    """bf16: under autocast; for a run, by default as the run itself evaluates, for a weight file fp32, as the
    original."""
    mixing: MixingConfig = free(MixingConfig())
    """For a weight file: its mean and std; a checkpoint knows its own."""


NOT_FINITE = (
    "the loss is not finite: the network's output is NaN or infinite for some images, which count as missed; the "
    "weights have diverged, or precision=fp32 is needed"
)


def take_from_run(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a run's config says how it evaluates: its set and preprocessing, and its precision.

    A run that evaluates nothing says the size at least.
    """
    evaluation = run.get("evaluation") or {"image_size": run["data"]["transform"]["image_size"]}
    precision = run["zero"]["precision"] if "zero" in run else run["precision"]
    return {"evaluation": evaluation, "precision": precision}


def add_preprocessing(values: Mapping[str, Any]) -> dict[str, Any]:
    """Add what nobody has said of `values`: size and crop of the network's own preprocessing (timm's pretrained_cfg).

    The crop is that of the size asked for: the original warps the whole picture from 384 pixels on.
    """
    evaluation = dict(values.get("evaluation") or {})
    if "image_size" not in evaluation and values.get("model") in VARIANTS:
        evaluation["image_size"] = VARIANTS[values["model"]].get("img_size", NATIVE_SIZE)
    size = evaluation.get("image_size")
    if "crop_fraction" not in evaluation and isinstance(size, int):
        described = describe_preprocessing(size)
        evaluation["crop_fraction"] = None if described["crop_mode"] == "squash" else described["crop_pct"]
    return {**values, "evaluation": evaluation}


def list_used(config: EvaluateConfig) -> dict[str, Any]:
    """Return how images are brought to the network and in what it computes, as JSON values."""
    data = config.evaluation
    return {
        "precision": config.precision,
        "image_size": data.image_size,
        "crop_fraction": data.crop_fraction,
        "interpolation": data.interpolation,
    }


def describe_used(config: EvaluateConfig) -> str:
    """Return the same for people."""
    data = config.evaluation
    shape = "warped whole" if data.crop_fraction is None else f"centre crop of {data.crop_fraction:g}"
    return f"{data.image_size} pixels, {shape}, {data.interpolation}, computed in {config.precision}"


def evaluate_weights(config: EvaluateConfig, *, world: World) -> Evaluation:
    """Evaluate weights on a labelled set, over any number of ranks. Every rank calls it.

    Raises UserError if the weights do not fit the model or the set's label space.
    """
    device = choose_device(world)
    with open_process_group(world, device=device):
        pretrained = read_pretrained(config.source, weights=config.weights, label_space=config.label_space)
        with errors_shared():
            labelled = open_evaluation_stream(config.evaluation, world=world)
        require_head_of(pretrained, pretrained.label_space or labelled.label_space)
        if pretrained.label_space is not None:
            require_same_labels(labelled.label_space, pretrained.label_space)
        known = pretrained.description
        name = config.model or known.get("model")
        if name is None:
            raise UserError(f"model: is missing; {config.source} does not say which model its weights are of")
        model = build_model(
            ModelConfig(name=name),
            num_classes=len(labelled.label_space),
            image_size=known.get("image_size", config.evaluation.image_size),
            seed=0,
        )
        load_weights(pretrained.state_dict, model.to(device).eval(), source=pretrained.source)
        mixing = MixingConfig(mean=tuple(known["mean"]), std=tuple(known["std"])) if known else config.mixing
        task = Classification(
            mixing=mixing,
            label_space=labelled.label_space,
            labelled=labelled,
            seed=0,
            num_micro_steps=1,
            world=world,
            device=device,
            beat=lambda: None,
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            return task.evaluate(model)

"""How images are brought to a network that is evaluated, and in what it computes: as its run did, or the original."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hornet.model.sizes import NATIVE_SIZE, VARIANTS, describe_preprocessing
from hornet.stages.config import EvaluateConfig

NOT_FINITE = (
    "the loss is not finite: the network's output is NaN or infinite for some images, which count as missed; the "
    "weights have diverged, or precision=fp32 is needed"
)


def take_from_run(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a run's config says how it evaluates: its set and preprocessing, and its precision.

    A run that evaluates nothing says the size at least.
    """
    evaluation = run.get("evaluation") or {"image_size": run["data"]["transform"]["image_size"]}
    evaluation = {key: value for key, value in evaluation.items() if key != "per_image"}  # of the run's own alone
    precision = run["zero"]["precision"] if "zero" in run else run["precision"]
    return {"evaluation": evaluation, "precision": precision}


def add_preprocessing(values: Mapping[str, Any]) -> dict[str, Any]:
    """Add what nobody has said of `values`: size and crop of the network's own preprocessing (timm's pretrained_cfg).

    The crop is that of the size asked for: the original warps the whole image from 384 pixels on.
    """
    evaluation = dict(values.get("evaluation") or {})
    if "image_size" not in evaluation and isinstance(values.get("sizes"), list | tuple) and values["sizes"]:
        evaluation["image_size"] = values["sizes"][0]
    if "image_size" not in evaluation and values.get("model") in VARIANTS:
        evaluation["image_size"] = VARIANTS[values["model"]].get("img_size", NATIVE_SIZE)
    size = evaluation.get("image_size")
    if "crop_fraction" not in evaluation and re.fullmatch(r"[0-9]{1,6}", str(size)):  # as written in YAML, or a number
        described = describe_preprocessing(int(str(size)))
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
    crops = config.crops or (data.crop_fraction,)
    shapes = ["warped whole" if crop is None else f"centre crop of {crop:g}" for crop in crops]
    sizes = ", ".join(map(str, config.sizes or (data.image_size,)))
    return f"{sizes} pixels, {' and '.join(shapes)}, {data.interpolation}, computed in {config.precision}"

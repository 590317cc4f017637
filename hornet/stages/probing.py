"""Frozen features of a split judged by those of another: nearest neighbours and a linear classifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hornet.data.augment.mixing import normalise
from hornet.data.config import MixingConfig
from hornet.data.loader import EvaluationStream
from hornet.errors import UserError
from hornet.stages.config import ProbeConfig
from hornet.training.config import Weights
from hornet.training.probe import Features, Share, classify_by_neighbours, classify_linearly, fit_linear
from hornet.training.process_group import errors_shared


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What frozen features of some weights are worth."""

    weights: Weights
    """raw: those of the last step; ema: their moving average."""
    num_features: int
    """Numbers of each image."""
    neighbours: Mapping[int, Share]
    """By k: the images that a vote of the k nearest of the memory classifies rightly."""
    linear: Mapping[float, Share]
    """By the weight of the penalty: those that a linear classifier does."""


def read_features(
    model: nn.Module, stream: EvaluationStream, *, mixing: MixingConfig, precision: str, device: torch.device
) -> Features:
    """Return what goes into the head for this rank's part of a split, padding included. Collective.

    On a GPU in half precision. Raises UserError on all ranks for a network without such, or if it is not finite.
    """
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    is_bf16 = precision == "bf16"
    with errors_shared(), torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
        for batch in stream.iterate():
            images = normalise(batch, mean=mixing.mean, std=mixing.std, device=device)
            rows = _compute(model, images)
            if not rows[batch.is_real.to(device)].isfinite().all():
                raise UserError(
                    "probe: features are NaN or infinite; the weights have diverged, or precision=fp32 is needed"
                )
            rows = rows.to(torch.float16 if device.type == "cuda" else torch.float32)
            parts.append((rows, batch.labels.to(device), batch.is_real.to(device)))
    rows, labels, is_real = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return Features(rows=rows, labels=labels, is_real=is_real)


def judge_features(
    memory: Features, queries: Features, *, config: ProbeConfig, weights: Weights, num_classes: int
) -> Probe:
    """Judge features by those of the memory. Collective."""
    neighbours = classify_by_neighbours(
        memory,
        queries,
        neighbours=config.neighbours,
        temperature=config.temperature,
        num_classes=num_classes,
    )
    linear = {
        l2: classify_linearly(queries, *fit_linear(memory, num_classes=num_classes, l2=l2)) for l2 in config.linear_l2
    }
    return Probe(weights=weights, num_features=memory.rows.shape[1], neighbours=neighbours, linear=linear)


def _compute(model: Any, images: Tensor) -> Tensor:
    """Return (B, D) features before the last layer."""
    if not hasattr(model, "forward_head"):
        raise UserError(
            f"probe: {type(model).__name__} has no features apart from its logits (timm's forward_features and "
            "forward_head); leave probe out"
        )
    rows: Tensor = model.forward_head(model.forward_features(images), pre_logits=True)
    return rows.float()

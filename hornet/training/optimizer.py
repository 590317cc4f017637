"""AdamW with the original's parameter groups."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from hornet.errors import UserError

Clipping = Literal["standard", "paper", "every_micro_step"]
"""When what has accumulated is clipped: at the end of a step, after each half of it too, after every micro step."""

NUM_PUBLISHED_MICRO_STEPS = 2
"""Of the original's commands for S, B and L, whose engine.py clips in fp32 after every backward pass."""


def is_clipped_after(micro_step: int, *, num_micro_steps: int, clipping: Clipping) -> bool:
    """Whether what has accumulated is clipped after the 0-based `micro_step` of a step.

    paper clips where the original's commands do, after each half of the step's images, however many micro steps make a
    half here: a sum of gradients does not depend on how it was taken apart, clipping between two parts does.
    """
    if clipping == "every_micro_step" or micro_step == num_micro_steps - 1:
        return True
    return clipping == "paper" and (micro_step + 1) * NUM_PUBLISHED_MICRO_STEPS % num_micro_steps == 0


def require_halves(clipping: Clipping, *, num_micro_steps: int) -> None:
    """Raise UserError if clipping as the paper would need half a micro step."""
    if clipping == "paper" and num_micro_steps % NUM_PUBLISHED_MICRO_STEPS:
        raise UserError(
            "recipe.clipping: paper clips after each half of a step, as the original's two micro steps; here the step "
            f"has {num_micro_steps}, which cannot be halved: choose a micro_batch_size that makes them even, or "
            "recipe.clipping=standard"
        )


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and what is done to gradients and weights around it."""

    weight_decay: float = 0.05
    """Decoupled weight decay; biases and 1-D parameters are never decayed, the GF filters are."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the two moments."""
    epsilon: float = 1e-8
    """Added to the root of the second moment."""
    clip_grad_norm: float | None = None
    """Largest norm of the whole gradient, applied once a step; null for no clipping."""
    layer_decay: float | None = None
    """Factor on the learning rate per layer group counted from the head (finetuning); null for the same everywhere."""
    ema_decay: float | None = None
    """Decay of the exponential moving average of the weights, per step; null for none."""

    def __post_init__(self) -> None:
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay: must not be negative, not {self.weight_decay}")
        if self.clip_grad_norm is not None and not self.clip_grad_norm > 0:
            raise ValueError(f"clip_grad_norm: must be above 0, or null for no clipping, not {self.clip_grad_norm}")
        for name in ("layer_decay", "ema_decay"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"{name}: must lie between 0 and 1, or be null, not {value}")


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Build AdamW over the model's groups.

    Each group carries `lr_scale`, its factor on the schedule's lr, and `names`, its parameters' names, so that a saved
    optimizer state can be read by name.
    """
    options = {"weight_decay": config.weight_decay, "no_weight_decay_list": model.no_weight_decay()}  # type: ignore[operator]
    if config.layer_decay is None:
        groups = param_groups_weight_decay(model, **options)
    else:
        groups = param_groups_layer_decay(model, layer_decay=config.layer_decay, **options)
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in groups:
        group.setdefault("lr_scale", 1.0)
        group["names"] = [names[parameter] for parameter in group["params"]]
    # fused: torch's own kernel on CPU and GPU. DeepSpeed's FusedAdam would need a compiler at run time.
    return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, eps=config.epsilon, fused=True)


def set_lr(groups: Iterable[dict[str, Any]], lr: float) -> None:
    """Give every parameter group its share of the step's learning rate."""
    for group in groups:
        group["lr"] = lr * group["lr_scale"]

"""A model from a run's settings."""

from __future__ import annotations

from dataclasses import dataclass

import timm
import torch
from torch import nn

from hornet.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network, and what is switched on in it while it trains."""

    name: str
    """A name registered with timm, such as hornet_large_gf."""
    drop_path_rate: float = 0.0
    """Largest rate of stochastic depth; it grows linearly from 0 at the first block."""
    layer_scale_init: float = 1e-6
    """Initial value of the layer scales."""
    checkpoint_activations: bool = False
    """Compute each block's activations again in the backward pass instead of keeping them."""

    def __post_init__(self) -> None:
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate: must lie in 0..1 (1 excluded), not {self.drop_path_rate}")
        if not timm.is_model(self.name):
            near = timm.list_models("hornet_*")
            raise ValueError(f"name: {self.name!r} is not a model timm knows; ours are {', '.join(near)}")


def build_model(config: ModelConfig, *, num_classes: int, seed: int) -> nn.Module:
    """Build the network on the CPU; `seed` alone decides its initial weights, on every rank alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = timm.create_model(
            config.name,
            num_classes=num_classes,
            drop_path_rate=config.drop_path_rate,
            layer_scale_init=config.layer_scale_init,
        )
    if config.checkpoint_activations:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
    require_layer_groups(model, name=config.name)
    return model


def require_layer_groups(model: nn.Module, *, name: str) -> None:
    """Raise UserError if `model` lacks what the stages ask of a model: timm's no_weight_decay and group_matcher."""
    for method in ("no_weight_decay", "group_matcher", "set_grad_checkpointing"):
        if not hasattr(model, method):
            raise UserError(f"model.name: {name} has no {method}(); choose a model that follows timm's conventions")


def list_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return every parameter's shape by name."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}

"""A model from a run's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import timm
import torch
from torch import nn

from hornet.config import resumable
from hornet.model.hornet import HorNet
from hornet.model.kernels import Kernels
from hornet.model.variants import VARIANTS


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network, and what is switched on in it while it trains."""

    name: str
    """One of our networks, such as hornet_large_gf; a wrong name lists them all."""
    drop_path_rate: float = 0.0
    """Largest rate of stochastic depth; it grows linearly from 0 at the first block."""
    layer_scale_init: float = 1e-6
    """Initial value of the layer scales."""
    activation_checkpointing: bool = resumable(False)
    """Compute each block's activations again in the backward pass instead of keeping them."""
    kernels: Kernels = resumable("plain")
    """"plain" operators, or "fused": our own kernels for CUDA devices, for 7x7 depthwise convolutions."""
    compile: bool = resumable(False)
    """Compile the network with torch.compile: slower to start, one graph for each image size."""

    def __post_init__(self) -> None:
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate: must lie in 0..1 (1 excluded), not {self.drop_path_rate}")
        if self.name not in VARIANTS:
            raise ValueError(f"name: {self.name!r} is not one of {', '.join(VARIANTS)}")


def build_model(config: ModelConfig, *, num_classes: int, image_size: int, seed: int) -> HorNet:
    """Build the network on the CPU, its global filters on the grids of `image_size` (pixels).

    `seed` alone decides its initial weights, on every rank alike.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        created = timm.create_model(
            config.name,
            num_classes=num_classes,
            img_size=image_size,
            drop_path_rate=config.drop_path_rate,
            layer_scale_init=config.layer_scale_init,
        )
    model = cast(HorNet, created)
    model.use_kernels(config.kernels)
    if config.activation_checkpointing:
        model.set_grad_checkpointing(True)
    if config.compile:
        # At the first call. The forward alone, since engines hang hooks on the network that cannot be compiled; in
        # place, so that names and checkpoints stay as they are.
        model.forward = torch.compile(model.forward, fullgraph=True)  # type: ignore[method-assign]
    return model


def list_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return every parameter's shape by name."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}

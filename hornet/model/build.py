"""A model from a run's settings."""

from __future__ import annotations

from typing import cast

import timm
import torch
from torch import nn

import hornet.model.variants  # noqa: F401  # registers the names with timm
from hornet.model.config import ModelConfig
from hornet.model.hornet import HorNet

MAX_NUM_GRAPHS = 128
"""Graphs that torch.compile may make of the network: one an image size, and one more where it also trains."""


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
        from torch._dynamo import config as compiler  # seconds to import

        # Torch's own limit is 8, and the next image size would end the process.
        compiler.recompile_limit = max(compiler.recompile_limit, MAX_NUM_GRAPHS)
        # At the first call. The forward alone, since engines hang hooks on the network that cannot be compiled; in
        # place, so that names and checkpoints stay as they are.
        model.forward = torch.compile(model.forward, fullgraph=True)  # type: ignore[method-assign]
    return model


def list_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return every parameter's shape by name."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}

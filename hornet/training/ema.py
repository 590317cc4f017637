"""The moving average of the weights, kept in the optimizer's own state.

Under ZeRO the optimizer holds a slice of the fp32 weights per rank, so the average is sharded, saved and restored
exactly as the moments are, without any communication; under DDP and alone it is a plain full copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

KEY = "ema"


def attach_ema(optimizer: torch.optim.Optimizer, *, decay: float) -> None:
    """Let each applied step of `optimizer` move `state[parameter]["ema"]`, which begins as the starting weights.

    As the original's (timm's ModelEma, a copy that is made before the first step). An average that is there, as one
    that was loaded, goes on as it is: releases before 0.2.0 began with the weights after the first step.
    """
    starting: dict[Tensor, Tensor] = {}
    optimizer.register_step_pre_hook(lambda stepped, _args, _kwargs: _keep_starting_weights(stepped, starting))
    optimizer.register_step_post_hook(lambda stepped, _args, _kwargs: _update(stepped, decay, starting))


@torch.no_grad()
def _keep_starting_weights(optimizer: torch.optim.Optimizer, starting: dict[Tensor, Tensor]) -> None:
    # Not yet in the optimizer's state: AdamW makes its moments where a parameter has no state at all.
    for parameter in _list_stepped(optimizer):
        if KEY not in optimizer.state.get(parameter, {}):
            starting[parameter] = parameter.detach().clone()


@torch.no_grad()
def _update(optimizer: torch.optim.Optimizer, decay: float, starting: dict[Tensor, Tensor]) -> None:
    averages: list[Tensor] = []
    weights: list[Tensor] = []
    for parameter in _list_stepped(optimizer):
        state = optimizer.state[parameter]
        if KEY not in state:
            state[KEY] = starting.pop(parameter)
        averages.append(state[KEY])
        weights.append(parameter.detach())
    if averages:
        torch._foreach_lerp_(averages, weights, 1 - decay)


def _list_stepped(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return what a step changes: what has a gradient. A skipped step must not move the average."""
    return [
        parameter for group in optimizer.param_groups for parameter in group["params"] if parameter.grad is not None
    ]


@torch.no_grad()
def swap_with_ema(optimizer: torch.optim.Optimizer, stepped: Iterable[Tensor]) -> None:
    """Exchange weights and averages of what `optimizer` steps, in place; a second call restores both to the bit."""
    for parameter in stepped:
        state = optimizer.state.get(parameter, {})
        if KEY in state:
            weights = parameter.detach().clone()
            parameter.detach().copy_(state[KEY])
            state[KEY].copy_(weights)


def read_ema_by_name(optimizer_state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the averages in a saved, unsharded optimizer state by parameter name; empty if the run kept none."""
    averages = {}
    for group in optimizer_state["param_groups"]:
        for index, name in zip(group["params"], group["names"], strict=True):
            state = optimizer_state["state"].get(index, {})
            if KEY in state:
                averages[name] = state[KEY]
    return averages

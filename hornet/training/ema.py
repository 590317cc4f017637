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
    """Let each applied step of `optimizer` update `state[parameter]["ema"]`; the first one sets it to the weights."""
    optimizer.register_step_post_hook(lambda stepped, _args, _kwargs: _update(stepped, decay))


@torch.no_grad()
def _update(optimizer: torch.optim.Optimizer, decay: float) -> None:
    averages: list[Tensor] = []
    weights: list[Tensor] = []
    for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
        if parameter.grad is None:  # not stepped: a skipped step must not move the average
            continue
        state = optimizer.state[parameter]
        if KEY not in state:
            state[KEY] = parameter.detach().clone()
        else:
            averages.append(state[KEY])
            weights.append(parameter.detach())
    if averages:
        torch._foreach_lerp_(averages, weights, 1 - decay)


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

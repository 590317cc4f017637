"""AdamW with the original's parameter groups."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from hornet.errors import UserError
from hornet.training.config import OptimizerConfig


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Build AdamW over the model's groups.

    Each group carries `lr_scale`, its factor on the schedule's lr, and `names`, its parameters' names, so that a saved
    optimizer state can be read by name. Raises UserError for layer decay of a network that does not name its layers.
    """
    no_weight_decay: Callable[[], Collection[str]] = getattr(model, "no_weight_decay", tuple)
    options: dict[str, Any] = {"weight_decay": config.weight_decay, "no_weight_decay_list": no_weight_decay()}
    if config.layer_decay is None:
        groups = param_groups_weight_decay(model, **options)
    elif hasattr(model, "count_decays"):
        groups = _group_by_decays(model, layer_decay=config.layer_decay, weight_decay=config.weight_decay)
    else:
        if not hasattr(model, "group_matcher"):
            raise UserError(
                f"optimizer.layer_decay: {type(model).__name__} does not say which layers it has (timm's "
                "group_matcher); set it to null"
            )
        groups = param_groups_layer_decay(model, layer_decay=config.layer_decay, **options)
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in groups:
        group.setdefault("lr_scale", 1.0)
        group["names"] = [names[parameter] for parameter in group["params"]]
    # fused: torch's own kernel on CPU and GPU. DeepSpeed's FusedAdam would need a compiler at run time.
    return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, eps=config.epsilon, fused=True)


def _group_by_decays(model: nn.Module, *, layer_decay: float, weight_decay: float) -> list[dict[str, Any]]:
    """Return groups of parameters, by how often layer decay applies to each (`count_decays` of its name)."""
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        is_decayed = parameter.ndim > 1 and not name.endswith(".bias")
        num_decays = model.count_decays(name)  # type: ignore[operator]
        group = groups.setdefault(
            (num_decays, is_decayed),
            {
                "params": [],
                "lr_scale": layer_decay**num_decays,
                "weight_decay": weight_decay if is_decayed else 0.0,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def require_same_parameters(
    groups: Sequence[Mapping[str, Any]],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    saved_groups: Sequence[Mapping[str, Any]],
    saved_shapes: Mapping[str, tuple[int, ...]],
    folder: Path,
) -> None:
    """Raise UserError if a checkpoint's parameters are others, by name and shape, or are grouped otherwise.

    An optimizer's state goes by a parameter's place in the groups: in other groups it would be another parameter's.
    """
    wrong = sorted(name for name in shapes.keys() | saved_shapes.keys() if shapes.get(name) != saved_shapes.get(name))
    if wrong:
        raise UserError(
            f"{folder}: is of another network: {len(wrong)} parameters differ ({', '.join(wrong[:3])}); go on with "
            "the model and the classes it was trained with"
        )
    if [group["names"] for group in groups] != [group["names"] for group in saved_groups]:
        raise UserError(
            f"{folder}: its optimizer has {len(saved_groups)} other parameter groups than this run's {len(groups)}; "
            "go on with the optimizer settings, and the releases of hornet and timm, it was trained with"
        )


def set_lr(groups: Iterable[dict[str, Any]], lr: float) -> None:
    """Give every parameter group its share of the step's learning rate."""
    for group in groups:
        group["lr"] = lr * group["lr_scale"]

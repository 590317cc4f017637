"""State dicts as other programs leave them: under which key, behind which prefixes, with what beside the parameters.

Pure functions of mappings. Not here: reading files (hornet/training/checkpoints/weight_file.py), filters of another
grid (resize.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from hornet.errors import UserError

Kind = Literal["raw", "ema"]
"""Of the last step, or their moving average."""

KEYS: Mapping[Kind, tuple[str, ...]] = {
    "raw": ("model", "state_dict", "module", "model_state_dict"),
    "ema": ("model_ema", "state_dict_ema", "ema", "ema_state_dict"),
}
"""Where training scripts keep their weights: the original and DeiT's kin, timm, DeepSpeed, PyTorch's tutorials."""
_MAX_WRAPPERS = 4

COUNTERS = ("total_ops", "total_params", "num_batches_tracked", "n_averaged")
"""Last parts of names that count and are no weights: of profilers (thop), of batch norms and of averaged models."""

_TRUNK = re.compile(r"((?:(?:module|model|backbone)\.)*)(?:downsample_layers|stages)\.")
"""The stages, and the prefixes that data parallelism, Lightning and OpenMMLab put before them."""
_AROUND = ("norm.weight", "norm.bias", "head.weight", "head.bias")
_WRAPPER_PARTS = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
"""What torch.compile, FSDP and checkpointing put between them."""
_DENSE_NORMS = tuple(f"norm{stage}." for stage in range(4))
"""Norms of the four outputs of the original's backbones for detection and segmentation."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """One state dict of a file."""

    key: str | None
    """Under which key; None if the file is the state dict."""
    state_dict: Mapping[str, Any]
    """As it was found there."""


def find_state_dicts(content: object, *, source: str) -> dict[Kind, Found]:
    """Find the weights in what a training script saved; a bare state dict counts as raw.

    Raises UserError, with what is there instead, if there are none, or two of one kind.
    """
    found: dict[Kind, Found] = {}
    if isinstance(content, Mapping):
        for kind, keys in KEYS.items():
            there = {key: inner for key in keys if (inner := _as_state_dict(_unwrap(content.get(key)))) is not None}
            if len(there) > 1:
                raise UserError(
                    f"{source} holds weights under {' and '.join(there)}; save the ones you mean by themselves"
                )
            for key, inner in there.items():
                found[kind] = Found(key=key, state_dict=inner)
        if not found and _as_state_dict(content) is not None:
            found["raw"] = Found(key=None, state_dict=content)
    if not found:
        known = ", ".join(key for keys in KEYS.values() for key in keys)
        raise UserError(f"{source} holds no state dict, by itself or under {known}; {_describe(content)}")
    return found


def find_only_state_dict(content: object, *, source: str) -> Mapping[str, Any]:
    """Find the weights in what a training script saved; raises UserError if there are none, or two kinds."""
    found = list(find_state_dicts(content, source=source).values())
    if len(found) > 1:
        raise UserError(
            f"{source} holds raw weights under {found[0].key} and averaged ones under {found[1].key}; "
            "hornet.stages.pretrained.read_pretrained takes the ones you ask for"
        )
    return found[0].state_dict


def plain_names(state_dict: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """Return a state dict under the network's own names, and remarks on what was left out.

    Takes away prefixes of wrappers, counters, and what a dense model has around the backbone. The dict itself is
    returned if its names need nothing.
    """
    names = {name: ".".join(part for part in name.split(".") if part not in _WRAPPER_PARTS) for name in state_dict}
    counters = [name for name in names.values() if name.rpartition(".")[2] in COUNTERS]
    plain = {name: state_dict[old] for old, name in names.items() if name.rpartition(".")[2] not in COUNTERS}
    prefix = _find_prefix(plain)
    others = [name for name in plain if not name.startswith(prefix) and name not in _AROUND]
    left_out = set(others)
    plain = {name.removeprefix(prefix): value for name, value in plain.items() if name not in left_out}
    dense = [name for name in plain if name.startswith(_DENSE_NORMS)]
    plain = {name: value for name, value in plain.items() if not name.startswith(_DENSE_NORMS)}
    remarks = []
    if counters:
        remarks.append(f"{len(counters)} counters ({_list_distinct(name.rpartition('.')[2] for name in counters)})")
    if dense:
        remarks.append(f"norms of the dense outputs ({_list_distinct(name.split('.')[0] for name in dense)})")
    if others:
        remarks.append(
            f"{len(others)} tensors beside the backbone ({_list_distinct(name.split('.')[0] for name in others)})"
        )
    return (state_dict if plain.keys() == state_dict.keys() else plain), remarks


def _find_prefix(state_dict: Mapping[str, Any]) -> str:
    """Return what stands before the names of the stages; empty if nothing does, or if there are none."""
    found = {match[1] for name in state_dict if (match := _TRUNK.match(name))}
    return min(found, key=len, default="")


def _unwrap(value: object) -> object:
    """Follow the keys of raw weights inwards, as of {"model_ema": {"module": ..., "decay": ...}}."""
    for _ in range(_MAX_WRAPPERS):
        if not isinstance(value, Mapping):
            return value
        inner = [value[key] for key in KEYS["raw"] if isinstance(value.get(key), Mapping)]
        if len(inner) != 1:
            return value
        value = inner[0]
    return value


def _as_state_dict(value: object) -> Mapping[str, Any] | None:
    """Return `value` if it is tensors by name, but for counters; else None."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        return None
    weights = [item for name, item in value.items() if name.rpartition(".")[2] not in COUNTERS]
    return value if weights and all(isinstance(item, Tensor) for item in weights) else None


def _describe(content: object) -> str:
    """Say what a file holds instead of weights, and a way if they lie under another key."""
    if not isinstance(content, Mapping):
        return f"it is a {type(content).__name__}"
    if not content:
        return "it is an empty dict"
    elsewhere = [key for key, value in content.items() if _as_state_dict(_unwrap(value)) is not None]
    if elsewhere:
        return f"there are tensors under {elsewhere[0]!a}: if these are the weights, save them by themselves"
    kinds = [f"{key!a} ({type(value).__name__})" for key, value in list(content.items())[:6]]
    is_optimizer = {"state", "param_groups"} <= content.keys() or "optimizer" in content
    remark = "an optimizer's state without its weights: " if is_optimizer else ""
    return f"it holds {remark}{', '.join(kinds)}{', ...' if len(content) > 6 else ''}"


def _list_distinct(names: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(names))
    return ", ".join(name if name.isprintable() else ascii(name) for name in distinct[:4]) + (
        ", ..." if len(distinct) > 4 else ""
    )

"""The files of a ZeRO checkpoint, read without running anything they contain.

Layout of DeepSpeed 0.19: `mp_rank_00_model_states.pt` (stages 0 to 2: the whole model, from rank 0) and per rank
`*zero_pp_rank_{r}_mp_rank_00_{optim,model}_states.pt`.
"""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hornet.errors import UserError
from hornet.training.ema import KEY as EMA_KEY
from hornet.training.ema import read_ema_by_name
from hornet.world import publish_accelerator

# The only classes, besides tensors and containers, that DeepSpeed 0.19 writes into its shards.
_KNOWN_CLASSES = (
    ("deepspeed.runtime.zero.config", "ZeroStageEnum"),
    ("deepspeed.runtime.fp16.loss_scaler", "LossScaler"),
    ("deepspeed.runtime.fp16.loss_scaler", "DynamicLossScaler"),
    ("deepspeed.utils.tensor_fragment", "fragment_address"),
)


def load_shard(path: Path, *, map_location: Any = "cpu") -> Any:
    """Read one file of a ZeRO checkpoint with torch's weights-only unpickler and a short list of known classes.

    Raises UserError if the file is cut or holds anything else: a checkpoint from a stranger runs no code here.
    """
    publish_accelerator("cuda" if torch.cuda.is_available() else "cpu")
    known = [getattr(importlib.import_module(module), name) for module, name in _KNOWN_CLASSES]
    try:
        with torch.serialization.safe_globals(known):
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: refused, it holds more than tensors: {str(error).splitlines()[0]}") from error
    except (RuntimeError, EOFError) as error:
        raise UserError(f"{path}: is cut short or not a checkpoint file: {str(error).splitlines()[0]}") from error


def read_model(folder: Path, *, zero_stage: int) -> dict[str, Tensor]:
    """Return the fp32 weights of a checkpoint by parameter name, without any process group."""
    if zero_stage == 3:
        return _merge_stage_3(folder)
    module: dict[str, Tensor] = load_shard(folder / "mp_rank_00_model_states.pt")["module"]
    return module


def read_ema(folder: Path, *, zero_stage: int) -> dict[str, Tensor]:
    """Return the averaged weights of a checkpoint (stages 0 to 2) by parameter name; empty if the run kept none."""
    model_states = load_shard(folder / "mp_rank_00_model_states.pt")
    if zero_stage == 0:
        averages = read_ema_by_name(model_states["optimizer"])
        return model_states["module"] | averages if averages else {}
    fragments: dict[str, list[Tensor]] = {}
    for path in _optimizer_shards(folder):
        optimizer = load_shard(path)["optimizer_state_dict"]
        for group, mapping in enumerate(optimizer["param_slice_mappings"]):
            state = optimizer["base_optimizer_state"]["state"].get(group, {})
            for name, slice_ in mapping.items():
                if EMA_KEY not in state:
                    return {}
                fragments.setdefault(name, []).append(state[EMA_KEY].narrow(0, slice_.start, slice_.numel).clone())
    averaged = dict(model_states["module"])  # buffers are not averaged
    for shapes in model_states["param_shapes"]:
        for name, shape in shapes.items():
            averaged[name] = torch.cat(fragments[name]).view(shape)
    return averaged


def _merge_stage_3(folder: Path) -> dict[str, Tensor]:
    """Put ZeRO-3's slices together: rank by rank, each parameter holds ceil(numel / ranks) elements, padded."""
    flats = [
        torch.cat(load_shard(path)["optimizer_state_dict"]["fp32_flat_groups"]) for path in _optimizer_shards(folder)
    ]
    states = load_shard(folder / "zero_pp_rank_0_mp_rank_00_model_states.pt")
    merged: dict[str, Tensor] = {}
    offset = 0
    for shapes in states["param_shapes"]:
        for name, shape in shapes.items():
            slice_elements = -(-shape.numel() // len(flats))
            whole = torch.cat([flat.narrow(0, offset, slice_elements) for flat in flats])
            merged[name] = whole[: shape.numel()].view(shape).clone()
            offset += slice_elements
    for name in states["buffer_names"]:
        merged[name] = states["module"][name]
    return merged


def _optimizer_shards(folder: Path) -> list[Path]:
    paths = list(folder.glob("*zero_pp_rank_*_mp_rank_00_optim_states.pt"))
    if not paths:
        raise UserError(f"{folder}: holds no optimizer shards")
    return sorted(paths, key=lambda path: int(path.name.split("zero_pp_rank_")[1].split("_")[0]))

"""The files of a ZeRO checkpoint as one addressable state, read without running anything they contain.

Whatever the stage and the number of ranks that wrote it, a checkpoint is, for every parameter and every kind of value
(weight, moments, average), a flat run of numbers; here is known in which file each stretch of it lies. So any rank of
any world under any stage reads just what it needs, and nothing has to be converted.

Layout of DeepSpeed 0.19 (N ranks):
- stage 0: `mp_rank_00_model_states.pt` holds the whole model and the whole optimizer;
- stages 1 and 2: each parameter group is one flat run, its parameters one after another, cut into N equal partitions
  (the last padded), of which `*zero_pp_rank_{r}_mp_rank_00_optim_states.pt` holds the r-th;
- stage 3: each parameter is cut into N pieces of ceil(numel / N), and rank r's file strings its pieces together.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hornet.errors import UserError
from hornet.training.checkpoints.unpickling import load_pickled
from hornet.training.ema import KEY
from hornet.world import publish_accelerator

WEIGHT = "weight"
"""The kind of value that is the parameter itself; the others are keys of AdamW's state and the average."""
EMA = KEY
STATE_KINDS = ("exp_avg", "exp_avg_sq", EMA)

# The only classes, besides tensors and containers, that DeepSpeed 0.19 writes into its shards.
_KNOWN_CLASSES = (
    ("deepspeed.runtime.zero.config", "ZeroStageEnum"),
    ("deepspeed.runtime.fp16.loss_scaler", "LossScaler"),
    ("deepspeed.runtime.fp16.loss_scaler", "DynamicLossScaler"),
    ("deepspeed.utils.tensor_fragment", "fragment_address"),
)


def load_shard(path: Path) -> Any:
    """Read one file of a ZeRO checkpoint with torch's weights-only unpickler and a short list of known classes.

    Tensors are mapped, not read: pages come in when they are used. Raises UserError if the file is cut or holds
    anything else: a checkpoint from a stranger runs no code here.
    """
    publish_accelerator("cuda" if torch.cuda.is_available() else "cpu")
    known = {f"{module}.{name}": getattr(importlib.import_module(module), name) for module, name in _KNOWN_CLASSES}
    return load_pickled(path, classes=known, mmap=True)


@dataclass(frozen=True)
class _Stretch:
    """A part of one parameter in one rank's file."""

    rank: int
    """Rank whose file holds the slice."""
    flat: int
    """Which of the file's flat tensors: the parameter group (stages 1, 2) or the sub-group (stage 3)."""
    start: int
    """First element in the flat tensor."""
    num_elements: int
    """Length, in elements of the flat tensor."""


class ZeroCheckpoint:
    """The state in a folder that DeepSpeed wrote, whatever the stage and the number of ranks."""

    def __init__(self, folder: Path) -> None:
        """Open the folder; raises UserError if it holds no ZeRO checkpoint."""
        self.folder = folder
        whole = folder / "mp_rank_00_model_states.pt"
        self._is_stage_3 = not whole.exists()
        self._shards = _list_shards(folder)
        if self._is_stage_3 and not self._shards:
            raise UserError(f"{folder}: holds no checkpoint of DeepSpeed")
        self._header = load_shard(whole if not self._is_stage_3 else folder / self._model_file(0))
        self._opened: dict[int, Any] = {}

    def _model_file(self, rank: int) -> str:
        return f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt"

    @property
    def counters(self) -> dict[str, int]:
        """DeepSpeed's own counts: global_steps, global_samples, skipped_steps."""
        return {name: int(self._header[name]) for name in ("global_steps", "global_samples", "skipped_steps")}

    @cached_property
    def shapes(self) -> dict[str, torch.Size]:
        """Every parameter's whole shape, in the order of the optimizer's groups."""
        if not self._shards:
            names = [name for group in self.groups for name in group["names"]]
            return {name: self._header["module"][name].shape for name in names}
        return {name: shape for group in self._header["param_shapes"] for name, shape in group.items()}

    @property
    def buffers(self) -> dict[str, Tensor]:
        """Return the model's buffers by name, as CPU tensors."""
        return {name: self._header["module"][name] for name in self._header["buffer_names"]}

    @cached_property
    def groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups, every hyper-parameter and `names`, without the tensors."""
        return [
            {key: value for key, value in group.items() if key != "params"} for group in self._base(0)["param_groups"]
        ]

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of state besides the weights: empty before the first step."""
        states = list(self._base(0)["state"].values())
        return tuple(kind for kind in STATE_KINDS if states and kind in states[0])

    def steps_of(self, names: Sequence[str]) -> float:
        """Return how many times the optimizer has stepped these parameters.

        Raises UserError if they were not stepped together.
        """
        found = {self._step_of(name) for name in names}
        if len(found) != 1:
            raise UserError(
                f"{self.folder}: parameters of one group have taken {sorted(found)} steps; cannot be resumed"
            )
        return found.pop()

    def read(self, name: str, kind: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Return elements `start .. stop` of a parameter's values, flat, on the CPU."""
        stop = prod(self.shapes[name]) if stop is None else stop
        if not self._shards:
            return self._whole(name, kind).reshape(-1)[start:stop]
        pieces = [
            self._flat(stretch, kind).narrow(0, stretch.start, stretch.num_elements)
            for stretch in self._find(name, start, stop)
        ]
        return torch.cat(pieces) if len(pieces) != 1 else pieces[0]

    def read_all(self, kind: str) -> dict[str, Tensor]:
        """Return a whole state dict with the parameters' values of one kind; empty if the run kept none."""
        if kind != WEIGHT and kind not in self.kinds:
            return {}
        parameters = {name: self.read(name, kind).view(shape).clone() for name, shape in self.shapes.items()}
        return {name: tensor.clone() for name, tensor in self.buffers.items()} | parameters

    def _find(self, name: str, start: int, stop: int) -> Iterator[_Stretch]:
        """Yield where elements `start .. stop` of a parameter lie, in order."""
        group, offset = self._places[name]
        if self._is_stage_3:
            share = _divide_up(prod(self.shapes[name]), len(self._shards))
            flat, offset = self._sub_group_of(offset)
            for rank in range(start // share, _divide_up(stop, share)):
                first, last = max(start, rank * share), min(stop, (rank + 1) * share)
                yield _Stretch(rank, flat, offset + first - rank * share, last - first)
            return
        share = self._partition_sizes[group]
        for rank in range((offset + start) // share, _divide_up(offset + stop, share)):
            first, last = max(offset + start, rank * share), min(offset + stop, (rank + 1) * share)
            yield _Stretch(rank, group, first - rank * share, last - first)

    @cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        """Each parameter's group, and its first element in the group's flat run (stage 3: in the file's whole run)."""
        places = {}
        offset = 0
        for group, shapes in enumerate(self._header["param_shapes"]):
            offset = offset if self._is_stage_3 else 0
            for name, shape in shapes.items():
                places[name] = (group, offset)
                elements = prod(shape)
                offset += _divide_up(elements, len(self._shards)) if self._is_stage_3 else elements
        return places

    @cached_property
    def _partition_sizes(self) -> list[int]:
        shard = self._shard(0)
        partitions = shard["single_partition_of_fp32_groups"]
        return [flat.numel() + int(padding) for flat, padding in zip(partitions, shard["group_paddings"], strict=True)]

    def _sub_group_of(self, offset: int) -> tuple[int, int]:
        """Return the flat tensor of a stage-3 file that holds an element of its whole run, and the place in it."""
        ends = accumulate(flat.numel() for flat in self._shard(0)["fp32_flat_groups"])
        first = 0
        for flat, end in enumerate(ends):
            if offset < end:
                return flat, offset - first
            first = end
        raise UserError(f"{self.folder}: its files are shorter than its list of parameters")

    def _flat(self, stretch: _Stretch, kind: str) -> Tensor:
        if kind != WEIGHT:
            tensor: Tensor = self._base(stretch.rank)["state"][stretch.flat][kind]
            return tensor
        weights = "fp32_flat_groups" if self._is_stage_3 else "single_partition_of_fp32_groups"
        weight: Tensor = self._shard(stretch.rank)[weights][stretch.flat]
        return weight

    def _whole(self, name: str, kind: str) -> Tensor:
        tensor: Tensor = self._header["module"][name] if kind == WEIGHT else self._state_of[name][kind]
        return tensor

    @cached_property
    def _state_of(self) -> dict[str, Mapping[str, Any]]:
        """The optimizer's state by parameter name (stage 0)."""
        optimizer = self._header["optimizer"]
        return {
            name: optimizer["state"][index]
            for group in optimizer["param_groups"]
            for index, name in zip(group["params"], group["names"], strict=True)
            if index in optimizer["state"]
        }

    def _step_of(self, name: str) -> float:
        if not self._shards:
            return float(self._state_of[name]["step"])
        group, offset = self._places[name]
        flat = self._sub_group_of(offset)[0] if self._is_stage_3 else group
        return float(self._base(0)["state"][flat]["step"])

    def _base(self, rank: int) -> Any:
        """Torch's own optimizer state dict in a rank's file."""
        if not self._shards:
            return self._header["optimizer"]
        return self._shard(rank)["optimizer_state_dict" if self._is_stage_3 else "base_optimizer_state"]

    def _shard(self, rank: int) -> Any:
        if rank not in self._opened:
            self._opened[rank] = load_shard(self._shards[rank])["optimizer_state_dict"]
        return self._opened[rank]


def _divide_up(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)


def _list_shards(folder: Path) -> list[Path]:
    """Return the ranks' files, by rank; none under stage 0."""
    by_rank = {
        int(path.name.split("zero_pp_rank_")[1].split("_")[0]): path
        for path in folder.glob("*zero_pp_rank_*_mp_rank_00_optim_states.pt")
    }
    if sorted(by_rank) != list(range(len(by_rank))):
        raise UserError(f"{folder}: holds the shards of ranks {sorted(by_rank)}, so some are missing")
    return [by_rank[rank] for rank in range(len(by_rank))]

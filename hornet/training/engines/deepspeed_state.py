"""One rank's part of the training state in a live DeepSpeed engine, and filling it from a checkpoint of any layout.

Reaches into ZeRO's optimizers (DeepSpeed 0.19), as their own loading does; that one cannot change the number of ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hornet.training.engines.deepspeed_files import WEIGHT, ZeroCheckpoint
from hornet.training.engines.deepspeed_private import reassign_partitioned_parameters
from hornet.training.norms import Slice
from hornet.training.optimizer import require_same_parameters
from hornet.training.statistics import list_persistent, require_same_buffers


def list_slices(engine: Any, *, stage: int, rank: int) -> list[Slice]:
    """Return the slices of this rank, in the order of their owners."""
    names = {parameter: name for name, parameter in engine.module.named_parameters()}
    if stage == 0:
        return [Slice(names[owner], 0, owner.numel(), owner, 0) for owner in list_owners(engine, stage=stage)]
    optimizer = engine.optimizer
    slices = []
    if stage == 3:
        for group in optimizer.fp16_groups:
            for parameter in group:
                flat, offset, share = optimizer.grad_position[optimizer.get_param_id(parameter)]
                num_elements = min(share, parameter.ds_numel - rank * share)
                if num_elements > 0:  # else the piece is padding alone
                    owner = optimizer.fp32_partitioned_groups_flat[flat]
                    slices.append(Slice(names[parameter], rank * share, num_elements, owner, offset))
        return slices
    for owner, group in zip(optimizer.single_partition_of_fp32_groups, optimizer.bit16_groups, strict=True):
        for parameter in group:
            mapping = parameter._hp_mapping
            if mapping is not None:
                here, there = mapping.lp_fragment_address, mapping.hp_fragment_address
                slices.append(Slice(names[parameter], here.start, here.numel, owner, there.start))
    return slices


def list_owners(engine: Any, *, stage: int) -> dict[Tensor, int]:
    """Return the tensors that torch's optimizer steps on this rank, and the number of each one's parameter group."""
    optimizer = engine.optimizer
    if stage == 0:
        groups = enumerate(optimizer.param_groups)
        return {parameter: number for number, group in groups for parameter in group["params"]}
    if stage == 3:
        owners = enumerate(optimizer.fp32_partitioned_groups_flat)
        return {owner: optimizer.sub_group_to_group_id[number] for number, owner in owners}
    return {owner: number for number, owner in enumerate(optimizer.single_partition_of_fp32_groups)}


@torch.no_grad()
def fill(engine: Any, checkpoint: ZeroCheckpoint, *, stage: int, rank: int, base: torch.optim.Optimizer) -> None:
    """Copy from the checkpoint what this rank holds: weights, optimizer state, hyper-parameters, buffers, counts.

    The other ranks' weights are stale until `publish_weights`. Not collective. Raises UserError if the checkpoint is of
    another network, or has other parameter groups.
    """
    _require_same(engine, checkpoint, base)
    for group, saved in zip(base.param_groups, checkpoint.groups, strict=True):
        group.update(saved)
    _make_state(list_owners(engine, stage=stage), checkpoint, base)
    for slice_ in list_slices(engine, stage=stage, rank=rank):
        stop = slice_.start + slice_.num_elements
        for kind in (WEIGHT, *checkpoint.kinds):
            target = slice_.owner.data if kind == WEIGHT else base.state[slice_.owner][kind]
            target = target.view(-1).narrow(0, slice_.offset, slice_.num_elements)
            target.copy_(checkpoint.read(slice_.name, kind, slice_.start, stop))
    buffers = list_persistent(engine.module)
    for name, tensor in checkpoint.buffers.items():
        buffers[name].copy_(tensor)
    for name, count in checkpoint.counters.items():
        setattr(engine, name, count)


def publish_weights(engine: Any, *, stage: int) -> None:
    """Make the model's weights those that the ranks' owners hold. Collective."""
    optimizer = engine.optimizer
    if stage in (1, 2):
        optimizer.update_lp_params()
    elif stage == 3:
        optimizer.checkpoint_event_prologue()
        for number in range(len(optimizer.fp32_partitioned_groups_flat)):
            reassign_partitioned_parameters(optimizer, number)
        optimizer.checkpoint_event_epilogue()


def _make_state(owners: Mapping[Tensor, int], checkpoint: ZeroCheckpoint, base: torch.optim.Optimizer) -> None:
    """Make the optimizer's state of every owner; a rank may hold nothing of a small group but padding."""
    if not checkpoint.kinds:
        base.state.clear()
        return
    steps = [checkpoint.steps_of(group["names"]) for group in checkpoint.groups]
    for owner, group in owners.items():
        state = base.state[owner]
        for kind in checkpoint.kinds:
            if kind not in state:
                state[kind] = torch.zeros_like(owner)  # padding stays 0, as it began
        # on the owner's device, where AdamW's fused kernel wants it
        state["step"] = torch.tensor(steps[group], dtype=torch.float32, device=owner.device)


def _require_same(engine: Any, checkpoint: ZeroCheckpoint, base: torch.optim.Optimizer) -> None:
    require_same_parameters(
        base.param_groups,
        {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in engine.module.named_parameters()},
        saved_groups=checkpoint.groups,
        saved_shapes={name: tuple(shape) for name, shape in checkpoint.shapes.items()},
        folder=checkpoint.folder,
    )
    require_same_buffers(engine.module, checkpoint.buffers, folder=checkpoint.folder)

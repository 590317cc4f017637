"""The ranks' conversation: opening it, agreeing on errors, small sums. Every function but `open` is collective."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from hornet.errors import UserError
from hornet.world import World, publish_world

T = TypeVar("T")


def choose_device(world: World) -> torch.device:
    """Return this rank's GPU, or the CPU where there is none.

    Raises UserError if the node has GPUs, but fewer than ranks.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    num_gpus = torch.cuda.device_count()
    if num_gpus == 1 and world.num_local_ranks > 1:
        # srun --gpus-per-task=1 shows each rank its own GPU as number 0; two ranks on one GPU fail later in NCCL,
        # which says so itself.
        return torch.device("cuda", 0)
    if world.local_rank >= num_gpus:
        raise UserError(
            f"local rank {world.local_rank} has no GPU: this node shows {num_gpus} GPUs to {world.num_local_ranks} "
            f"ranks; start {num_gpus} ranks a node, or set CUDA_VISIBLE_DEVICES= to run on the CPU"
        )
    return torch.device("cuda", world.local_rank)


@contextmanager
def open_process_group(world: World, *, device: torch.device) -> Iterator[None]:
    """Join the other ranks for the length of the block, and leave in order.

    Gloo serves CPU tensors and objects, NCCL the GPU's. Without the orderly leave ranks sometimes abort at exit.
    """
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    publish_world(world)  # DeepSpeed and Accelerate read it again
    if world.num_ranks == 1:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    else:
        dist.init_process_group(backend, rank=world.rank, world_size=world.num_ranks)
    try:
        yield
        dist.barrier()
    finally:
        dist.destroy_process_group()


def raise_together(error: Exception | None) -> None:
    """Raise on every rank if any rank brought an error, so that nobody waits for one that has left.

    The rank that failed raises its own error; the others raise a UserError that quotes the first.
    """
    has_failed = torch.tensor(int(error is not None))
    dist.all_reduce(has_failed)  # small, since it is asked at every step
    if not has_failed:
        return
    errors: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(errors, None if error is None else f"{error}")
    if error is not None:
        raise error
    for rank, text in enumerate(errors):
        if text is not None:
            raise UserError(f"rank {rank} failed: {text}")


@contextmanager
def errors_shared() -> Iterator[None]:
    """End the block on every rank alike: an error of any rank is raised on all. The block must not be collective."""
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    raise_together(error)


def tell_all(value: T) -> T:
    """Give every rank the value that rank 0 holds."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_from_all(value: T) -> list[T]:
    """Return every rank's value, by rank."""
    values: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def max_over_ranks(value: int) -> int:
    """Return the largest of the ranks' values."""
    largest = torch.tensor(value)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest)


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sum over ranks of a CPU tensor of any integer or floating type (int64 wraps around)."""
    total = values.clone()
    dist.all_reduce(total)
    return total


@torch.no_grad()
def average_over_ranks(tensors: Sequence[Tensor]) -> None:
    """Replace tensors, all of one type and on one device, by their means over ranks, in one conversation."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    start = 0
    for tensor in tensors:
        tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
        start += tensor.numel()

"""The ranks' conversation: opening it, agreeing on errors, small sums. Every function but `open` is collective.

A run has one such message in every step (step_message.py). Gloo's own all-reduce passes it around all ranks, twice:
1,022 messages one after the other on 512 ranks. `_reduce_small` needs 9 (docs/scale.md).
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from hornet.errors import UserError
from hornet.training.rendezvous import meet
from hornet.world import World, publish_world

T = TypeVar("T")

FILES_PER_RANK = 4
"""Open files for each rank of the world: Gloo and DeepSpeed's second group were measured to take 3."""
FILES_BESIDE = 512
"""And for all else: up to 256 tars in a worker, libraries, logs."""


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


def allow_open_files(num_ranks: int) -> None:
    """Raise this process's limit of open files to what a world of this size needs, as far as it may.

    A rank keeps three connections to every other, and hands them on to its workers, which open tars besides: the usual
    limit of 1,024 would end a run of more than 330 ranks. Raises UserError if the hard limit is below.
    """
    needed = FILES_BESIDE + FILES_PER_RANK * num_ranks
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UserError(
            f"the hard limit of open files (ulimit -Hn) is {hard} here, and each of {num_ranks} ranks needs {needed}; "
            "have the administrator raise it, or start fewer ranks"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


@contextmanager
def open_process_group(world: World, *, device: torch.device, purpose: str = "a run") -> Iterator[None]:
    """Join the other ranks for the length of the block, and leave in order.

    Gloo serves CPU tensors and objects, NCCL the GPU's. Without the orderly leave ranks sometimes abort at exit.
    `purpose` tells ranks of different runs apart that meet at one port by mistake. Raises UserError if they cannot
    meet.
    """
    allow_open_files(world.num_ranks)
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    publish_world(world)  # DeepSpeed and Accelerate read it again
    if world.num_ranks == 1:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    else:
        store = meet(world, purpose=purpose)
        try:
            dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.num_ranks)
        except RuntimeError as error:
            raise UserError(
                f"the ranks met at {world.master_address}:{world.master_port}, but cannot talk to each other: "
                f"{str(error).splitlines()[0]}; name the network that they share in GLOO_SOCKET_IFNAME (ip -brief "
                "address lists them)"
            ) from error
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
    if not _reduce_small(has_failed, torch.add):
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
    return int(_reduce_small(torch.tensor(value), torch.maximum))


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sum over ranks of a small CPU tensor of any integer or floating type (int64 wraps around)."""
    return _reduce_small(values, torch.add)


def _reduce_small(mine: Tensor, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return what `combine`, which must be commutative, makes of all ranks' values, the same bits on every rank.

    By recursive doubling: partners 1, 2, 4, ... apart exchange what they know. Ranks beyond the last power of two
    give theirs to one below before, and get the result after.
    """
    rank, num_ranks = dist.get_rank(), dist.get_world_size()
    num_doubling = 1 << (num_ranks.bit_length() - 1)
    value = mine.contiguous()
    if rank >= num_doubling:
        dist.send(value, rank - num_doubling)
        return _receive_like(value, rank - num_doubling)
    has_extra = rank + num_doubling < num_ranks
    if has_extra:
        value = combine(value, _receive_like(value, rank + num_doubling))
    distance = 1
    while distance < num_doubling:
        sending = dist.isend(value, rank ^ distance)
        theirs = _receive_like(value, rank ^ distance)
        sending.wait()  # type: ignore[union-attr]  # None only outside the group
        value = combine(value, theirs)
        distance *= 2
    if has_extra:
        dist.send(value, rank + num_doubling)
    return value


def _receive_like(value: Tensor, rank: int) -> Tensor:
    received = torch.empty_like(value)
    dist.recv(received, rank)
    return received


def stack_from_all(tensor: Tensor) -> Tensor:
    """Return every rank's tensor, all of one shape, behind each other in a new first dimension, by rank."""
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.stack(parts)


def add_over_ranks(tensor: Tensor) -> None:
    """Replace a large tensor by its sum over ranks, the same bits on every rank."""
    dist.all_reduce(tensor)


@torch.no_grad()
def average_over_ranks(tensors: Sequence[Tensor]) -> None:
    """Replace tensors, all of one type and on one device, by their means over ranks, in one conversation."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))

"""`micro_batch_size: auto`: how large a micro batch is, found by trying the real network on random images."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from hornet.batch import Batch
from hornet.data.loader import TrainStream
from hornet.quantities import FP32_BYTES
from hornet.stages.classification import Classification
from hornet.training.checkpoints.checkpoint import Checkpoint
from hornet.training.fitting import Fit, fit_on_cpu, fit_on_gpu, read_available_bytes
from hornet.training.process_group import errors_shared, gather_from_all
from hornet.training.statistics import RunningStatistics
from hornet.world import World


@dataclass(frozen=True, kw_only=True)
class EngineLoad:
    """What an engine adds to a network's own memory."""

    precision: Literal["bf16", "fp32"]
    """Of the forward pass."""
    count_bytes: Callable[[Sequence[int]], int]
    """From the sizes of the parameters, in elements, to all that the engine holds on this rank's device: weights,
    gradients, optimizer and buffers, everything but activations."""


def fit_micro_batch(
    model: nn.Module,
    *,
    image_size: int,
    stream: TrainStream,
    task: Classification,
    load: EngineLoad,
    checkpoint: Checkpoint | None,
) -> Classification:
    """Choose the micro batch size, split the stream by it, and return the task with the new number of micro steps.

    A run that goes on keeps its size on the same number of ranks: images are mixed within a micro batch. Collective.
    """
    size = read_earlier_size(checkpoint, task.world)
    if size is not None:
        remark = f"micro_batch_size: {size}, as before"
    else:
        share = stream.num_micro_steps * stream.micro_batch_size
        with errors_shared(), RunningStatistics(model).held():  # of random images, other ones on every rank
            fit = _search(model, share=share, image_size=image_size, task=task, load=load)
            model.cpu()  # as it came
        size = min(gather_from_all(fit.size))
        remark = describe_fit(replace(fit, size=size), share=share)
    if task.world.is_main:
        print(remark, flush=True)
    stream.split(size)
    return replace(task, num_micro_steps=stream.num_micro_steps)


def read_earlier_size(checkpoint: Checkpoint | None, world: World) -> int | None:
    """Return the size a checkpoint was written with, None if it says none or was written on another number of ranks."""
    if checkpoint is None or checkpoint.description.get("num_ranks") != world.num_ranks:
        return None
    return checkpoint.description.get("micro_batch_size")


def describe_split(world: World, stream: TrainStream) -> dict[str, Any]:
    """Return what `read_earlier_size` wants to find in a checkpoint's description."""
    return {"num_ranks": world.num_ranks, "micro_batch_size": stream.micro_batch_size}


def describe_fit(fit: Fit, *, share: int) -> str:
    """Return the line that says what was found."""
    used, total = fit.used_bytes / 2**30, fit.total_bytes / 2**30
    return f"micro_batch_size: {fit.size} of {share}, {used:.1f} of {total:.1f} GiB"


def _search(model: nn.Module, *, share: int, image_size: int, task: Classification, load: EngineLoad) -> Fit:
    num_elements = [parameter.numel() for parameter in model.parameters()]
    weight_bytes = FP32_BYTES * sum(num_elements)
    model.to(task.device).train()

    uncompiled = functools.partial(type(model).forward, model)

    def trial(size: int) -> None:
        try:
            # The class's own, which is never compiled: for every size tried that would take minutes.
            with torch.autocast(task.device.type, torch.bfloat16, enabled=load.precision == "bf16"):
                loss = task.compute_loss(uncompiled, make_random_batch(size, image_size), 0)
            loss.backward()
        finally:
            model.zero_grad(set_to_none=True)

    engine_bytes = load.count_bytes(num_elements)
    if task.device.type == "cuda":
        held_by_trial = 2 * weight_bytes  # weights and gradients
        reserve_bytes = max(0, engine_bytes - held_by_trial)
        return fit_on_gpu(share, trial=trial, reserve_bytes=reserve_bytes, device=task.device)
    reserve_bytes = engine_bytes - weight_bytes  # the weights are there already
    available_bytes = read_available_bytes(task.world.num_local_ranks)
    return fit_on_cpu(share, trial=trial, reserve_bytes=reserve_bytes, available_bytes=available_bytes)


def make_random_batch(size: int, image_size: int) -> Batch:
    """Return random images in the form the loader gives."""
    images = torch.randint(256, (size, 3, image_size, image_size), dtype=torch.uint8)
    return Batch(
        images_bchw=images.contiguous(memory_format=torch.channels_last),
        labels=torch.zeros(size, dtype=torch.int64),
        erase_boxes=torch.zeros(size, 4, dtype=torch.int32),
        key_hashes=torch.zeros(size, dtype=torch.int64),
        is_real=torch.ones(size, dtype=torch.bool),
        keys=("",) * size,
        bad_samples=(),
    )

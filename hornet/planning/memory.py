"""Does it fit: weights, gradients, optimizer and activations against a GPU's memory, under each ZeRO stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hornet.hardware import Gpu
from hornet.planning.activations import Activations
from hornet.quantities import list_divisors
from hornet.training.engines.zero_config import ZeroConfig
from hornet.training.engines.zero_memory import StateBytes, count_data_parallel_bytes, count_deepspeed_bytes
from hornet.training.fitting import GPU_MARGIN

STAGES = (0, 1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class MemoryRow:
    """What one rank holds at the peak, in one way of sharding."""

    name: str
    """The setting, as a user writes it."""
    is_planned: bool
    """Whether the config says so."""
    state: StateBytes
    """Everything but activations."""
    activation_bytes: int
    """Of the planned micro batch."""
    reserve_bytes: int
    """CUDA's context, the communication library's buffers, gaps between blocks: the share of the GPU's memory that
    `micro_batch_size: auto` keeps free too."""
    total_bytes: int
    """All of it."""
    largest_micro_batch_size: int | None
    """The most images that fit and divide a rank's share of the global batch; None if not even one does."""


def plan_memory(
    num_elements: Sequence[int],
    *,
    zero: ZeroConfig | None,
    has_ema: bool,
    activations: Activations,
    gpu: Gpu,
    num_gpus: int,
    rank_batch_size: int,
    micro_batch_size: int | None,
) -> list[MemoryRow]:
    """Return a row for each ZeRO stage, or the one of data parallelism if `zero` is None.

    `micro_batch_size` None takes the largest that fits, or one image.
    """
    if zero is None:
        states = {"data parallel": count_data_parallel_bytes(num_elements, num_ranks=num_gpus, has_ema=has_ema)}
        planned = "data parallel"
    else:
        # At stage 0 nothing can be offloaded: the config would refuse it.
        configs = {f"zero.stage={n}": _restage(zero, n) for n in STAGES}
        states = {
            name: count_deepspeed_bytes(num_elements, config=one, num_ranks=num_gpus, has_ema=has_ema, offloads=True)
            for name, one in configs.items()
        }
        planned = f"zero.stage={zero.stage}"
    memory_bytes = int(gpu.memory_gib * 2**30)
    reserve = int(GPU_MARGIN * memory_bytes)
    rows = []
    for name, state in states.items():
        room = memory_bytes - reserve - state.total
        largest = max(
            (size for size in list_divisors(rank_batch_size) if activations.count(size) <= room), default=None
        )
        activation_bytes = activations.count(micro_batch_size or largest or 1)
        rows.append(
            MemoryRow(
                name=name,
                is_planned=name == planned,
                state=state,
                activation_bytes=activation_bytes,
                reserve_bytes=reserve,
                total_bytes=state.total + activation_bytes + reserve,
                largest_micro_batch_size=largest,
            )
        )
    return rows


def explain_lack(row: MemoryRow, *, gpu: Gpu, micro_batch_size: int) -> str | None:
    """Return the sentence that says that it does not fit, None if it does."""
    if row.total_bytes <= gpu.memory_gib * 2**30:
        return None
    largest = row.largest_micro_batch_size
    advice = (
        "shard more (zero.stage), set model.activation_checkpointing=true, or take more or larger GPUs"
        if largest is None
        else f"micro_batch_size={largest} fits, or set model.activation_checkpointing=true"
    )
    return (
        f"micro_batch_size: {micro_batch_size} with {row.name} takes {row.total_bytes / 2**30:.1f} GiB, "
        f"but {gpu.key} has {gpu.memory_gib:g}; {advice}"
    )


def _restage(zero: ZeroConfig, stage: int) -> ZeroConfig:
    return replace(zero, stage=stage, offload_optimizer=zero.offload_optimizer and stage > 0)  # type: ignore[arg-type]

"""The run on a number of GPUs: how the batch is divided, what each of them holds and says, how long it takes."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from hornet.data.division import check_division
from hornet.planning.basis import Basis
from hornet.planning.memory import MemoryRow, explain_lack, plan_memory
from hornet.planning.question import Question
from hornet.planning.speed import Duration, plan_duration
from hornet.quantities import list_divisors
from hornet.training.engines.communication import Network, count_sent_bytes, estimate_seconds, list_traffic
from hornet.training.engines.zero_config import ZeroConfig

GPU_BYTES_PER_SECOND = 360e9
"""To the neighbour within a node: 80 % of an H100's NVLink, as in docs/scale.md."""


@dataclass(frozen=True, kw_only=True)
class FleetPlan:
    """One run on so many GPUs."""

    num_gpus: int
    num_nodes: int
    micro_batch_size: int
    num_micro_steps: int
    memory: tuple[MemoryRow, ...]
    """For each way of sharding."""
    problem: str | None
    """Why it does not fit, in the way of sharding that the config says."""
    duration: Duration
    """If GPUs are as fast together as one is alone."""
    sent_bytes: int
    """That each rank sends in a step."""
    talk_seconds: float
    """Of a step's conversation: what it takes longer if nothing of it happens beside the computing."""
    hours_at_most: float
    """Hours of the run if nothing of that conversation happens beside the computing."""

    @property
    def planned_memory(self) -> MemoryRow:
        """The way of sharding that the config says."""
        return next(row for row in self.memory if row.is_planned)


def plan_fleet(basis: Basis, *, num_gpus: int, may_shrink: bool = False) -> FleetPlan:
    """Plan for `num_gpus`; with `may_shrink` a micro batch that does not divide a rank's share gives way to the next.

    Raises UserError, saying what would do, if the global batch cannot be divided.
    """
    config, question, network = basis.config, basis.question, basis.network
    wanted = None if config.micro_batch_size == "auto" else config.micro_batch_size
    check_division(config.global_batch_size, num_ranks=num_gpus, micro_batch_size=1 if may_shrink else wanted or 1)
    share = config.global_batch_size // num_gpus
    if wanted is not None:
        wanted = max(size for size in list_divisors(share) if size <= wanted)
    memory = plan_memory(
        network.num_elements,
        zero=basis.zero,
        has_ema=basis.has_ema,
        activations=network.activations,
        gpu=question.gpu,
        num_gpus=num_gpus,
        rank_batch_size=share,
        micro_batch_size=wanted,
    )
    planned = next(row for row in memory if row.is_planned)
    micro_batch_size = wanted or planned.largest_micro_batch_size or 1
    traffic = list_traffic(
        network.num_elements,
        stage=basis.stage,
        num_ranks=num_gpus,
        num_micro_steps=share // micro_batch_size,
        bucket_elements=(basis.zero or ZeroConfig()).bucket_elements,
    )
    duration = plan_duration(
        basis.speed,
        num_gpus=num_gpus,
        num_steps=basis.num_steps,
        global_batch_size=config.global_batch_size,
        question=question,
    )
    talk_seconds = estimate_seconds(traffic, num_ranks=num_gpus, network=_describe_network(question))
    return FleetPlan(
        num_gpus=num_gpus,
        num_nodes=ceil(num_gpus / question.gpus_per_node),
        micro_batch_size=micro_batch_size,
        num_micro_steps=share // micro_batch_size,
        memory=tuple(memory),
        problem=explain_lack(planned, gpu=question.gpu, micro_batch_size=micro_batch_size),
        duration=duration,
        sent_bytes=count_sent_bytes(traffic, num_ranks=num_gpus),
        talk_seconds=talk_seconds,
        hours_at_most=duration.hours + basis.num_steps * talk_seconds / 3600,
    )


def _describe_network(question: Question) -> Network:
    return Network(
        ranks_per_node=question.gpus_per_node,
        node_bytes_per_second=question.node_gbit * 1e9 / 8,
        gpu_bytes_per_second=GPU_BYTES_PER_SECOND,
    )

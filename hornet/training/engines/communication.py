"""What ranks send each other in a training step under each ZeRO stage, as arithmetic on the parameters' sizes.

As DeepSpeed 0.19 does it with our settings (`make_deepspeed_config`), which is not in all as the ZeRO paper has it:
stages 1 and 2 all-reduce the gradients and keep a slice, where the paper reduces to the slice's owner only; stage 3
gathers large parameters once for a micro step (they fit, so they stay from the forward to the backward pass) and small
ones, which it keeps whole, once a step. All numbers travel as fp32. Counted against the collective calls of the real
engine in tests/integration/test_communication.py.

Seconds are those of an assumed network, nothing overlapped, the wire always full: a lower bound for the conversation,
an upper bound for what it adds to a step. Not here: the few numbers of norms and losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2
from typing import Literal

from hornet.quantities import FP32_BYTES

LARGEST_PERSISTENT = 100_000
"""Elements up to which stage 3 keeps a parameter whole on every rank (DeepSpeed's param_persistence_threshold)."""
STAGE_0_BUCKET_ELEMENTS = 500_000_000
"""What DeepSpeed reduces at once where it shards nothing."""

Kind = Literal["all_reduce", "reduce_scatter", "all_gather"]


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """All of a step's collective calls of one kind."""

    kind: Kind
    num_bytes: int
    """Of the whole tensors: what is reduced, or what every rank has in the end."""
    num_calls: int
    """At least: buckets are taken as filled to the brim (no parameter should be larger than one)."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """An assumed machine of nodes."""

    ranks_per_node: int
    node_bytes_per_second: float
    """What all of a node's network cards send together."""
    gpu_bytes_per_second: float
    """What a GPU sends to its neighbour within the node."""
    node_hop_seconds: float = 2.7e-6
    """Latency of a hop from node to node: NCCL's own assumption for rings and small messages."""
    gpu_hop_seconds: float = 0.6e-6
    """Latency of a hop within a node (NVLink), from the same table."""


def list_traffic(
    num_elements: Sequence[int], *, stage: int, num_ranks: int, num_micro_steps: int, bucket_elements: int
) -> tuple[Traffic, ...]:
    """Return what one step says, for parameters of these sizes; nothing on one rank."""
    if num_ranks == 1:
        return ()
    whole = sum(num_elements)
    num_buckets = ceil(whole / bucket_elements)
    if stage == 0:
        return (_traffic("all_reduce", whole, ceil(whole / STAGE_0_BUCKET_ELEMENTS)),)
    if stage < 3:
        num_reductions = 1 if stage == 1 else num_micro_steps
        return (
            _traffic("all_reduce", whole * num_reductions, num_buckets * num_reductions),
            _traffic("all_gather", whole, 2),  # decayed and other parameters
        )
    padded = [ceil(elements / num_ranks) * num_ranks for elements in num_elements]
    small = [size for size, elements in zip(padded, num_elements, strict=True) if elements <= LARGEST_PERSISTENT]
    large = sum(padded) - sum(small)
    gathers = [_traffic("all_gather", sum(small), len(small))]
    if large:
        calls = ceil(large / bucket_elements)
        gathers.append(_traffic("all_gather", large * num_micro_steps, calls * num_micro_steps))
    return (_traffic("reduce_scatter", sum(padded) * num_micro_steps, num_buckets * num_micro_steps), *gathers)


def count_sent_bytes(traffic: Sequence[Traffic], *, num_ranks: int) -> int:
    """Return the bytes that each rank sends in rings: an all-reduce passes everything on twice, the others once."""
    passes = sum(part.num_bytes * (2 if part.kind == "all_reduce" else 1) for part in traffic)
    return passes * (num_ranks - 1) // num_ranks


def estimate_seconds(traffic: Sequence[Traffic], *, num_ranks: int, network: Network) -> float:
    """Return how long the conversation lasts.

    NCCL's rings visit node after node, as many rings as network cards: each node sends on the ring's bytes once, over
    all its cards. Small all-reduces go up and down a tree of nodes, the others around the ring.
    """
    num_nodes = ceil(num_ranks / network.ranks_per_node)
    rate = min(network.gpu_bytes_per_second, network.node_bytes_per_second if num_nodes > 1 else float("inf"))
    seconds = count_sent_bytes(traffic, num_ranks=num_ranks) / rate
    for part in traffic:
        if part.kind == "all_reduce":
            node_hops, gpu_hops = 2 * ceil(log2(num_nodes)), 2 * (min(num_ranks, network.ranks_per_node) - 1)
        else:
            node_hops, gpu_hops = num_nodes - 1, num_ranks - num_nodes
        seconds += part.num_calls * (node_hops * network.node_hop_seconds + gpu_hops * network.gpu_hop_seconds)
    return seconds


def _traffic(kind: Kind, num_elements: int, num_calls: int) -> Traffic:
    return Traffic(kind=kind, num_bytes=FP32_BYTES * num_elements, num_calls=num_calls)

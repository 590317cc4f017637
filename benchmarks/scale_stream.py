"""The stream of hundreds of ranks: the real order and slicing for each, without its images.

What is read are numbers of samples; what a worker would open is followed by the same rule as `ShardReader`'s.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, replace

import numpy as np

from hornet.data.augment.transforms import TrainTransform
from hornet.data.config import StreamConfig, TransformConfig
from hornet.data.loader import TrainStream
from hornet.data.order import Order
from hornet.data.pipeline import TrainBatches
from hornet.shards.index import RECORD
from hornet.shards.label_space import LabelSpace
from hornet.shards.manifest import Split
from hornet.shards.reader import MAX_OPEN_SHARDS
from hornet.shards.shard_set import ShardSet
from hornet.world import ALONE

WINDOW = 64


@dataclass(frozen=True, kw_only=True)
class Fanout:
    """What one epoch asks of the disk."""

    is_exactly_once: bool
    """Whether every sample came once, over all ranks and workers."""
    num_reads: int
    num_opens: int
    """Over all workers; a worker keeps up to MAX_OPEN_SHARDS tars open."""
    most_open: int
    """Tars that one rank's workers had open together."""
    shards_a_step: float
    """Different tars of one rank's part of a step, in the mean."""
    seconds_a_step: float
    """For one rank to find its samples, in the mean."""
    first_pick_seconds: float
    """To find the first samples, from nothing."""


def follow_epoch(
    *, num_samples: int, num_shards: int, window: int, num_ranks: int, num_workers: int, global_batch_size: int
) -> Fanout:
    """Let all ranks walk through the first epoch, step by step."""
    shards = describe_set(num_samples, num_shards)
    order = Order(
        shard_lengths=shards.split.shard_lengths,
        seed=0,
        shuffle_window_shards=window,
        global_batch_size=global_batch_size,
        partial_batch="carry",
    )
    started = time.perf_counter()
    order.pick(step=0, start=0, stop=1)
    first_pick_seconds = time.perf_counter() - started
    micro_batch_size = global_batch_size // num_ranks
    config = StreamConfig(shards="unused", transform=TransformConfig(image_size=224))
    ranks = []
    for rank in range(num_ranks):
        world = replace(ALONE, rank=rank, num_ranks=num_ranks)
        stream = TrainStream(
            config,
            shards=shards,
            order=order,
            world=world,
            micro_batch_size=micro_batch_size,
            dataset=TrainBatches(shards, transform=TrainTransform(config.transform), seed=0),
            bytes_per_image=0,
        )
        ranks.append(stream._picks(0, 10**9))
    times_seen = np.zeros(num_samples, np.uint8)
    descriptors: list[list[OrderedDict[int, None]]] = [[OrderedDict() for _ in range(num_workers)] for _ in ranks]
    num_opens = num_different = num_requests = 0
    seconds = 0.0
    num_steps = -(-num_samples // global_batch_size)  # the last one reaches into the next epoch
    for step, rank in ((step, rank) for step in range(num_steps) for rank in range(num_ranks)):
        started = time.perf_counter()
        picks = next(ranks[rank])
        seconds += time.perf_counter() - started
        samples = np.array([sample for epoch, sample in picks if epoch == 0], dtype=np.int64)
        np.add.at(times_seen, samples, 1)
        touched = (np.searchsorted(shards.starts, samples, side="right") - 1).tolist()
        num_different += len(set(touched))
        num_requests += 1
        num_opens += _open(descriptors[rank][step % num_workers], touched)  # requests go to the workers by turns
    return Fanout(
        is_exactly_once=bool((times_seen == 1).all()),
        num_reads=int(times_seen.sum()),
        num_opens=num_opens,
        most_open=max(sum(map(len, workers)) for workers in descriptors),
        shards_a_step=num_different / num_requests,
        seconds_a_step=seconds / num_requests,
        first_pick_seconds=first_pick_seconds,
    )


def _open(descriptors: OrderedDict[int, None], shards: list[int]) -> int:
    """Use tars one after the other; return how many had to be opened."""
    num_opened = 0
    for shard in shards:
        if shard in descriptors:
            descriptors.move_to_end(shard)
            continue
        num_opened += 1
        if len(descriptors) >= MAX_OPEN_SHARDS:
            descriptors.popitem(last=False)
        descriptors[shard] = None
    return num_opened


def describe_set(num_samples: int, num_shards: int) -> ShardSet:
    """Return a set of which there is nothing but the description."""
    lengths = np.diff(np.arange(num_shards + 1) * num_samples // num_shards)
    split = Split(
        name="train",
        shard_folder=".",
        shards=tuple(f"{number:06d}.tar" for number in range(num_shards)),
        shard_lengths=tuple(lengths.tolist()),
        shard_bytes=(1,) * num_shards,
        shard_sha256=(None,) * num_shards,
        index="none",
        index_sha256="",
        class_counts=(num_samples,),
    )
    return ShardSet(
        place="nowhere",
        name="nothing",
        split=split,
        label_space=LabelSpace(name="one", classes=("n00000001",)),
        fingerprint="",
        records=np.zeros(num_samples, RECORD),
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        remote=None,
    )


def measure_stream(*, num_samples: int, num_ranks: int, num_workers: int, global_batch_size: int) -> None:
    """Print what an epoch of ImageNet-22K asks of the disk, for tars of 10,000 and of 1,000 samples."""
    print(f"\nThe stream: {num_samples} samples, {num_ranks} ranks x {num_workers} workers, one epoch")
    print(
        "    tars  window  exactly once   opens/read  opens a rank  open at once  tars a step  us a step  first pick s"
    )
    for num_shards in (num_samples // 10_000, num_samples // 1_000):
        found = follow_epoch(
            num_samples=num_samples,
            num_shards=num_shards,
            window=WINDOW,
            num_ranks=num_ranks,
            num_workers=num_workers,
            global_batch_size=global_batch_size,
        )
        print(
            f"{num_shards:>8}{WINDOW:>8}{found.is_exactly_once!s:>14}{found.num_opens / found.num_reads:>13.2f}"
            f"{found.num_opens / num_ranks:>14.0f}{found.most_open:>14}{found.shards_a_step:>13.1f}"
            f"{1e6 * found.seconds_a_step:>11.0f}{found.first_pick_seconds:>12.3f}",
            flush=True,
        )

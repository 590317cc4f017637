"""How well batches are mixed, against a full permutation of the epoch: arithmetic on arrays, no images.

For each way of shuffling, over 200 batches of an epoch:

  classes     distinct classes of a batch, over those of a full permutation
  chi-square  of a batch's class counts against the set's, a degree of freedom; 1 for a full permutation
  same shard  share of neighbouring picks that lie in one shard
  position    correlation of the stored positions of neighbouring picks
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from webdataset.filters import _shuffle as shuffle_through_buffer

from hornet.data.order import Order
from hornet.seeding import Int64Array, permute

NUM_BATCHES = 200
BUFFER = 1000
"""Samples that webdataset's shuffle() holds unless told otherwise."""
NUM_RANKS, NUM_WORKERS = 64, 8

Batches = Callable[[], list[Int64Array]]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A set of made-up labels."""

    name: str
    num_samples: int
    num_shards: int
    num_classes: int
    batch_size: int

    @property
    def lengths(self) -> Int64Array:
        """Samples of each shard, as even as can be."""
        bounds = np.arange(self.num_shards + 1) * self.num_samples // self.num_shards
        return np.diff(bounds)

    @property
    def sorted_labels(self) -> npt.NDArray[np.int32]:
        """Labels in stored order if shards are filled class by class; class sizes as uneven as ImageNet-22K's."""
        weights = np.random.default_rng(0).gamma(1.5, size=self.num_classes) + 0.01
        bounds = np.round(np.cumsum(weights) / weights.sum() * self.num_samples).astype(np.int64)
        return np.repeat(np.arange(self.num_classes, dtype=np.int32), np.diff(bounds, prepend=0))


SCALES = (
    Scale(name="ImageNet-22K", num_samples=14_197_122, num_shards=1_420, num_classes=21_841, batch_size=4096),
    Scale(name="ImageNet-22K", num_samples=14_197_122, num_shards=14_200, num_classes=21_841, batch_size=4096),
    Scale(name="small", num_samples=25_600, num_shards=128, num_classes=100, batch_size=256),
)


def measure_shuffle() -> None:
    """Print a table for each scale and each content of the shards."""
    for scale in SCALES:
        labels_sorted = scale.sorted_labels
        contents = {
            "shards that `build` wrote: each a random sample": labels_sorted[permute(scale.num_samples, "content")],
            "shards filled class by class": labels_sorted,
        }
        picked = {name: pick() for name, pick in list_ways(scale).items()}
        for content, labels in contents.items():
            print(
                f"\n{scale.name}: {scale.num_samples} samples, {scale.num_classes} classes, {scale.num_shards} shards, "
                f"batches of {scale.batch_size}; {content}"
            )
            print(f"  {'':<34}{'classes':>10}{'chi-square':>12}{'same shard':>12}{'position':>10}")
            whole = count_classes(picked["full permutation"], labels)
            for name, batches in picked.items():
                classes = count_classes(batches, labels) / whole
                chi_square = measure_chi_square(batches, labels, num_classes=scale.num_classes)
                same, correlation = compare_neighbours(batches, scale)
                print(f"  {name:<34}{classes:>10.4f}{chi_square:>12.3f}{same:>12.4f}{correlation:>10.4f}", flush=True)


def list_ways(scale: Scale) -> dict[str, Batches]:
    """Return the ways of shuffling, by name: each gives some batches of an epoch."""
    ways: dict[str, Batches] = {"full permutation": lambda: pick_permuted(scale)}
    for window in (1, 4, 16, 64, scale.num_shards):
        name = f"ours, window {window}" if window < scale.num_shards else "ours, window of all"
        ways[name] = lambda window=window: pick_ours(scale, window)  # type: ignore[misc]
    ways[f"webdataset, buffer {BUFFER}, 1 stream"] = lambda: pick_through_buffers(scale, 1, 1)
    ranks, workers = (NUM_RANKS, NUM_WORKERS) if scale.num_shards >= NUM_RANKS * NUM_WORKERS else (8, 4)
    ways[f"the same, {ranks} ranks x {workers} workers"] = lambda: pick_through_buffers(scale, ranks, workers)
    return ways


def pick_permuted(scale: Scale) -> list[Int64Array]:
    """Return batches of a permutation of everything."""
    order = permute(scale.num_samples, "full permutation")
    return [order[step * scale.batch_size : (step + 1) * scale.batch_size] for step in list_steps(scale)]


def pick_ours(scale: Scale, window: int) -> list[Int64Array]:
    """Return batches as hornet.data.order gives them."""
    order = Order(
        shard_lengths=scale.lengths.tolist(),
        seed=0,
        shuffle_window_shards=window,
        global_batch_size=scale.batch_size,
        partial_batch="drop",
    )
    return [order.pick(step=step, start=0, stop=scale.batch_size).samples for step in list_steps(scale)]


def list_steps(scale: Scale) -> list[int]:
    """Return steps that are spread over an epoch."""
    steps = scale.num_samples // scale.batch_size
    chosen: list[int] = np.unique(np.linspace(0, steps - 1, min(steps, NUM_BATCHES)).astype(int)).tolist()
    return chosen


def pick_through_buffers(scale: Scale, num_ranks: int, num_workers: int) -> list[Int64Array]:
    """Return the first batches of webdataset: shuffled shards dealt to ranks and workers, each with its own buffer.

    A rank's share of a step is one worker's: workers take turns.
    """
    starts = np.concatenate([[0], np.cumsum(scale.lengths)])
    shards = permute(scale.num_shards, "webdataset")
    streams = []
    for number in range(num_ranks * num_workers):
        samples = _read_shards(starts, shards[number :: num_ranks * num_workers])
        streams.append(shuffle_through_buffer(samples, BUFFER, rng=random.Random(number)))
    share = scale.batch_size // num_ranks
    steps = min(NUM_BATCHES, scale.num_samples // scale.batch_size)
    batches = []
    for step in range(steps):
        turn = [streams[rank * num_workers + step % num_workers] for rank in range(num_ranks)]
        batch = [sample for stream in turn for sample in itertools.islice(stream, share)]
        if len(batch) == scale.batch_size:  # not where a worker's shards have come to an end
            batches.append(np.asarray(batch))
    return batches


def _read_shards(starts: Int64Array, shards: Int64Array) -> Iterator[int]:
    for shard in shards:
        yield from range(int(starts[shard]), int(starts[shard + 1]))


def count_classes(batches: list[Int64Array], labels: npt.NDArray[np.int32]) -> float:
    """Return the mean number of distinct classes in a batch."""
    return float(np.mean([len(np.unique(labels[batch])) for batch in batches]))


def measure_chi_square(batches: list[Int64Array], labels: npt.NDArray[np.int32], *, num_classes: int) -> float:
    """Return the mean chi-square of the batches' class counts against the set's, divided by its degrees of freedom."""
    shares = np.bincount(labels, minlength=num_classes) / len(labels)
    there = shares > 0
    values = []
    for batch in batches:
        expected = shares[there] * len(batch)
        counts = np.bincount(labels[batch], minlength=num_classes)[there]
        values.append(float(((counts - expected) ** 2 / expected).sum() / (there.sum() - 1)))
    return float(np.mean(values))


def compare_neighbours(batches: list[Int64Array], scale: Scale) -> tuple[float, float]:
    """Return how often neighbouring picks lie in one shard, and the correlation of their stored positions."""
    one = np.concatenate([batch[:-1] for batch in batches])
    other = np.concatenate([batch[1:] for batch in batches])
    starts = np.cumsum(scale.lengths)
    same = np.searchsorted(starts, one, side="right") == np.searchsorted(starts, other, side="right")
    return float(same.mean()), float(np.corrcoef(one, other)[0, 1])

"""Which samples a smaller set keeps, as arithmetic on plain arrays: nested shares of each class.

A sample's score is a function of (seed, name of its tar, byte in it), so the order of a class's samples does not depend
on what else the set holds: a view of a view, or a set with samples left out, keeps the order of the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hornet.seeding import Int64Array, derive_seed, permute
from hornet.shards.index import Records
from hornet.shards.shard_set import shard_stem

Scores = npt.NDArray[np.uint64]


def score_samples(records: Records, *, shards: Sequence[str], shard_lengths: Sequence[int], seed: int) -> Scores:
    """Return a random number for each sample of an index, from its identity alone."""
    keys = np.array([derive_seed("subset", seed, shard_stem(shard)) for shard in shards], dtype=np.uint64)
    offsets: Scores = np.asarray(records["offset"], dtype=np.uint64)
    starts: Scores = np.repeat(keys, shard_lengths)
    return mix_bits(starts + offsets * np.uint64(0x9E3779B97F4A7C15))


def mix_bits(numbers: Scores) -> Scores:
    """Scatter 64-bit numbers, one to one: the finisher of splitmix64 (Steele, Lea, Flood 2014; Vigna's constants)."""
    mixed = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def rank_in_class(labels: npt.NDArray[np.int32], scores: Scores, *, num_classes: int) -> Int64Array:
    """Return the place (0-based) of each sample among those of its class, in the order of the scores."""
    order = np.lexsort((scores, labels))
    starts = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=num_classes))])
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[order] = np.arange(len(labels)) - starts[labels[order]]
    return ranks


def share_classes(class_counts: Int64Array, *, fraction: float, seed: int, keeps_all_classes: bool) -> Int64Array:
    """Return how many samples of each class make the fraction: within one of `fraction * count`.

    The rounding point of a class is fixed by the seed: floor(fraction * count + u), where the `u` of the classes are
    spread evenly over 0..1. It grows with the fraction, so a smaller share lies inside a larger one, and over all
    classes the total is right, where rounding each class alike is not: 0.1 % of 1,000 classes of 1,300 are 1,300
    samples, not 1,000. With `keeps_all_classes` a class that has samples keeps at least one.
    """
    rounding = (permute(len(class_counts), "share of a class", seed) + 0.5) / len(class_counts)
    quotas = np.minimum(np.floor(fraction * class_counts + rounding).astype(np.int64), class_counts)
    return np.maximum(quotas, np.minimum(class_counts, 1)) if keeps_all_classes else quotas

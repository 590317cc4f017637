"""Shares of a set, on plain numbers: nested, within one sample of each class, right in all."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hornet.shards.index import RECORD
from hornet.shards.views.choosing import mix_bits, rank_in_class, score_samples, share_classes

counts_of_classes = st.lists(st.integers(0, 3000), min_size=1, max_size=60).map(np.array)


@given(counts_of_classes, st.floats(0.0001, 1), st.floats(0.0001, 1), st.integers(0, 5), st.booleans())
def test_a_smaller_share_lies_inside_a_larger_one(
    counts: Any, one: float, other: float, seed: int, keeps_all: bool
) -> None:
    small, large = sorted([one, other])
    quotas = [share_classes(counts, fraction=f, seed=seed, keeps_all_classes=keeps_all) for f in (small, large)]
    assert (quotas[0] <= quotas[1]).all()


@given(counts_of_classes, st.floats(0.0001, 1), st.integers(0, 5))
def test_each_class_is_within_one_sample_of_its_share(counts: Any, fraction: float, seed: int) -> None:
    quotas = share_classes(counts, fraction=fraction, seed=seed, keeps_all_classes=False)
    assert (np.abs(quotas - fraction * counts) < 1 + 1e-9).all()
    kept = share_classes(counts, fraction=fraction, seed=seed, keeps_all_classes=True)
    assert ((kept > 0) == (counts > 0)).all()
    assert (kept[quotas > 0] == quotas[quotas > 0]).all()


@given(counts_of_classes, st.integers(0, 5))
def test_the_whole_is_the_whole(counts: Any, seed: int) -> None:
    assert (share_classes(counts, fraction=1.0, seed=seed, keeps_all_classes=False) == counts).all()


@given(st.integers(1, 2000), st.integers(1, 3000), st.floats(0.0001, 1))
def test_equal_classes_make_the_right_total(num_classes: int, count: int, fraction: float) -> None:
    quotas = share_classes(np.full(num_classes, count), fraction=fraction, seed=0, keeps_all_classes=False)
    assert abs(quotas.sum() - fraction * count * num_classes) <= 1


def test_unequal_classes_make_nearly_the_right_total() -> None:
    counts = np.random.default_rng(0).integers(1, 2400, 21841)
    quotas = share_classes(counts, fraction=0.01, seed=0, keeps_all_classes=False)
    assert abs(quotas.sum() / (0.01 * counts.sum()) - 1) < 0.002


def test_bits_are_mixed_as_in_splitmix64() -> None:
    # The reference generator's first outputs for seed 1234567 (Vigna's splitmix64.c, as quoted on Rosetta Code).
    states = np.uint64(1234567) + np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert mix_bits(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_scores_depend_on_the_sample_not_on_its_neighbours() -> None:
    records = np.zeros(6, dtype=RECORD)
    records["offset"] = [0, 1536, 4096, 0, 1536, 4096]
    whole = score_samples(records, shards=["a.tar", "x/b.tar"], shard_lengths=[3, 3], seed=1)
    part = score_samples(records[[2, 3, 5]], shards=["a.tar", "b.tar"], shard_lengths=[1, 2], seed=1)
    assert whole[[2, 3, 5]].tolist() == part.tolist()
    assert len(set(whole.tolist())) == 6
    assert whole.tolist() != score_samples(records, shards=["a.tar", "b.tar"], shard_lengths=[3, 3], seed=2).tolist()


def test_ranks_count_within_each_class() -> None:
    ranks = rank_in_class(np.array([1, 0, 1, 1], np.int32), np.array([9, 5, 3, 4], np.uint64), num_classes=3)
    assert ranks.tolist() == [2, 0, 0, 1]

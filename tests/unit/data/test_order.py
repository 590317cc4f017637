"""The promise of the stream, as laws of pure functions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornet.data.order import Order, PartialBatch
from hornet.errors import UserError
from hornet.seeding import derive_seed, permute

lengths = st.lists(st.integers(1, 8), min_size=1, max_size=7)
seeds = st.integers(0, 2**63 - 1)
windows = st.integers(1, 9)
partials = st.sampled_from(["drop", "carry"])


def make_order(
    shard_lengths: list[int], *, seed: int = 0, window: int = 2, size: int = 1, partial: PartialBatch = "carry"
) -> Order:
    return Order(
        shard_lengths=shard_lengths,
        seed=seed,
        shuffle_window_shards=window,
        global_batch_size=size,
        partial_batch=partial,
    )


def philox_by_hand(key: int, count: int) -> list[int]:
    """Philox4x64-10 from the paper (Salmon et al., SC 2011), as numpy counts it: from counter 1."""
    mask = 2**64 - 1
    values: list[int] = []
    counter = 0
    while len(values) < count:
        counter += 1
        x = [counter & mask, 0, 0, 0]
        k = [key & mask, key >> 64]
        for _ in range(10):
            a, b = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
            x = [(b >> 64) ^ x[1] ^ k[0], b & mask, (a >> 64) ^ x[3] ^ k[1], a & mask]
            k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
        values += x
    return values[:count]


@given(st.integers(0, 50), seeds)
def test_permute_is_the_sorting_order_of_philox(count: int, seed: int) -> None:
    raw = philox_by_hand(derive_seed("x", seed), count)
    assert permute(count, "x", seed).tolist() == sorted(range(count), key=raw.__getitem__)


def epoch_by_hand(shard_lengths: list[int], *, seed: int, epoch: int, window: int) -> list[int]:
    starts = [sum(shard_lengths[:shard]) for shard in range(len(shard_lengths))]
    shards = permute(len(shard_lengths), "order of shards", seed, epoch).tolist()
    order: list[int] = []
    for number, first in enumerate(range(0, len(shards), window)):
        samples = [
            starts[shard] + position
            for shard in shards[first : first + window]
            for position in range(shard_lengths[shard])
        ]
        shuffle = permute(len(samples), "order in a window", seed, epoch, number).tolist()
        order += [samples[position] for position in shuffle]
    return order


@given(lengths, seeds, st.integers(0, 100), windows)
def test_an_epoch_is_a_permutation_made_as_described(
    shard_lengths: list[int], seed: int, epoch: int, window: int
) -> None:
    order = make_order(shard_lengths, seed=seed, window=window)
    found = order.read_epoch(epoch, start=0, stop=order.num_samples).tolist()
    assert sorted(found) == list(range(sum(shard_lengths)))
    assert found == epoch_by_hand(shard_lengths, seed=seed, epoch=epoch, window=window)


@given(lengths, seeds, windows, st.data())
def test_any_part_of_an_epoch_is_that_part_of_the_whole(
    shard_lengths: list[int], seed: int, window: int, data: st.DataObject
) -> None:
    order = make_order(shard_lengths, seed=seed, window=window)
    start = data.draw(st.integers(0, order.num_samples))
    stop = data.draw(st.integers(start, order.num_samples))
    whole = order.read_epoch(3, start=0, stop=order.num_samples)
    assert make_order(shard_lengths, seed=seed, window=window).read_epoch(3, start=start, stop=stop).tolist() == (
        whole[start:stop].tolist()
    )


@given(lengths, seeds, windows, partials, st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.data())
def test_slices_of_ranks_and_micro_steps_make_up_the_global_batch(
    shard_lengths: list[int],
    seed: int,
    window: int,
    partial: PartialBatch,
    num_ranks: int,
    num_micro_steps: int,
    micro: int,
    data: st.DataObject,
) -> None:
    size = num_ranks * num_micro_steps * micro
    if partial == "drop" and size > sum(shard_lengths):
        return
    order = make_order(shard_lengths, seed=seed, window=window, size=size, partial=partial)
    step = data.draw(st.integers(0, 30))
    whole = order.pick(step=step, start=0, stop=size)
    parts = [
        make_order(shard_lengths, seed=seed, window=window, size=size, partial=partial).pick(
            step=step, start=start, stop=start + micro
        )
        for start in range(0, size, micro)
    ]
    assert np.concatenate([part.samples for part in parts]).tolist() == whole.samples.tolist()
    assert np.concatenate([part.epochs for part in parts]).tolist() == whole.epochs.tolist()
    assert len(whole) == size


@given(lengths, seeds, windows, st.integers(1, 20))
def test_carry_is_the_epochs_end_to_end(shard_lengths: list[int], seed: int, window: int, size: int) -> None:
    order = make_order(shard_lengths, seed=seed, window=window, size=size)
    num_samples = order.num_samples
    num_steps = -(-3 * num_samples // size)
    picks = [order.pick(step=step, start=0, stop=size) for step in range(num_steps)]
    pairs = [(e, s) for part in picks for e, s in zip(part.epochs.tolist(), part.samples.tolist(), strict=True)]
    expected = [(e, s) for e in range(3) for s in order.read_epoch(e, start=0, stop=num_samples).tolist()]
    assert pairs[: 3 * num_samples] == expected
    assert order.steps_per_epoch == num_samples / size
    assert [order.epoch_of(step) for step in range(num_steps)] == [part.epochs[0] for part in picks]


@given(lengths, seeds, windows, st.integers(1, 20))
def test_drop_is_the_whole_batches_of_each_epoch(shard_lengths: list[int], seed: int, window: int, size: int) -> None:
    if size > sum(shard_lengths):
        return
    order = make_order(shard_lengths, seed=seed, window=window, size=size, partial="drop")
    steps = sum(shard_lengths) // size
    assert order.steps_per_epoch == steps
    for epoch in range(3):
        picks = [order.pick(step=epoch * steps + step, start=0, stop=size) for step in range(steps)]
        found = np.concatenate([part.samples for part in picks]).tolist()
        assert found == order.read_epoch(epoch, start=0, stop=steps * size).tolist()
        assert {int(e) for part in picks for e in part.epochs} == {epoch}
        assert order.epoch_of(epoch * steps) == epoch


@given(lengths, windows, st.integers(1, 12), st.lists(st.integers(0, 40), max_size=12))
def test_steps_may_be_asked_for_in_any_order(
    shard_lengths: list[int], window: int, size: int, steps: list[int]
) -> None:
    order = make_order(shard_lengths, window=window, size=size)
    for step in steps:
        fresh = make_order(shard_lengths, window=window, size=size)
        assert order.pick(step=step, start=0, stop=size).samples.tolist() == (
            fresh.pick(step=step, start=0, stop=size).samples.tolist()
        )


def test_a_window_over_all_shards_mixes_them_all() -> None:
    order = make_order([100] * 10, window=10)
    first = order.read_epoch(0, start=0, stop=100) // 100
    assert set(first.tolist()) == set(range(10))


def test_a_window_of_one_keeps_shards_together() -> None:
    order = make_order([100] * 10, window=1)
    assert len({int(sample) // 100 for sample in order.read_epoch(0, start=0, stop=100)}) == 1


def test_epochs_and_seeds_differ() -> None:
    def read(seed: int, epoch: int) -> list[int]:
        return make_order([50] * 4, seed=seed).read_epoch(epoch, start=0, stop=200).tolist()

    assert read(0, 0) != read(0, 1)
    assert read(0, 0) != read(1, 0)


def test_a_batch_larger_than_the_split_is_refused_with_drop() -> None:
    with pytest.raises(
        UserError, match=r"global_batch_size 8 is more than the split's 7 samples.*partial_batch to carry"
    ):
        make_order([3, 4], size=8, partial="drop")

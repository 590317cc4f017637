"""How well a batch is mixed: what docs/data.md promises of the two-level shuffle."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornet.data.order import Order
from hornet.seeding import Int64Array, permute


def pick_epoch(*, num_shards: int, length: int, window: int, size: int, seed: int = 0) -> list[Int64Array]:
    """All batches of an epoch."""
    order = Order(
        shard_lengths=[length] * num_shards,
        seed=seed,
        shuffle_window_shards=window,
        global_batch_size=size,
        partial_batch="drop",
    )
    return [order.pick(step=step, start=0, stop=size).samples for step in range(int(order.steps_per_epoch))]


def mean_classes(batches: list[Int64Array], labels: npt.NDArray[np.int64]) -> float:
    return float(np.mean([len(np.unique(labels[batch])) for batch in batches]))


@given(st.integers(1, 12), st.integers(1, 9), st.integers(1, 14), st.integers(0, 10**9))
def test_each_window_is_whole_shards_and_each_shard_lies_in_one_window(
    num_shards: int, length: int, window: int, seed: int
) -> None:
    (epoch,) = pick_epoch(num_shards=num_shards, length=length, window=window, size=num_shards * length, seed=seed)
    seen: list[int] = []
    for start in range(0, num_shards * length, window * length):
        samples = epoch[start : start + window * length]
        shards = np.unique(samples // length)
        assert len(samples) == len(shards) * length
        assert len(shards) == min(window, num_shards - len(seen)), "only an epoch's last window holds fewer"
        seen += shards.tolist()
    assert sorted(seen) == list(range(num_shards))


@pytest.mark.parametrize("window", [1, 4, 16, 64])
def test_of_shards_that_build_wrote_a_batch_is_as_mixed_as_of_a_full_permutation(window: int) -> None:
    """Within 2 %, whatever the window: such a shard is itself a random sample of all classes."""
    num_shards, length, size = 200, 500, 256
    labels = np.repeat(np.arange(1000), num_shards * length // 1000)[permute(num_shards * length, "content")]
    batches = pick_epoch(num_shards=num_shards, length=length, window=window, size=size)
    everything = permute(num_shards * length, "full")
    permuted = [everything[start : start + size] for start in range(0, len(everything) - size + 1, size)]
    assert mean_classes(batches, labels) == pytest.approx(mean_classes(permuted, labels), rel=0.02)


@settings(max_examples=30)
@given(
    st.sampled_from([1, 2, 4, 8, 16, 64]),
    st.sampled_from([8, 32, 100]),
    st.sampled_from([0.5, 1, 2.5]),
    st.integers(0, 10**9),
)
def test_of_shards_filled_class_by_class_a_batch_holds_at_least_so_many_classes(
    window: int, size: int, shards_per_class: float, seed: int
) -> None:
    """W(1 - (1 - 1/W)^B) shards in the mean, and so many classes over the number of shards that one class touches."""
    num_shards, length = 64 * 4, 60
    labels = np.arange(num_shards * length) // int(length * shards_per_class)
    touched = max(len(np.unique(np.flatnonzero(labels == label) // length)) for label in range(labels[-1] + 1))
    batches = pick_epoch(num_shards=num_shards, length=length, window=window, size=size, seed=seed)
    batches = [batch for batch in batches if len(batch) == size]
    bound = window * (1 - (1 - 1 / window) ** size)
    num_found = np.array([len(np.unique(batch // length)) for batch in batches])
    margin = 4 * num_found.std() / len(batches) ** 0.5 + 1e-9
    assert num_found.mean() >= bound - margin
    assert mean_classes(batches, labels) >= (bound - margin) / touched


def test_two_windows_are_kept_at_4_bytes_a_sample() -> None:
    order = Order(
        shard_lengths=[1000] * 8, seed=0, shuffle_window_shards=2, global_batch_size=100, partial_batch="carry"
    )
    for step in range(200):
        order.pick(step=step, start=0, stop=100)
    assert {window.nbytes for window in order._windows.values()} == {4 * 2000}
    assert len(order._windows) == 2


def test_sets_of_more_samples_than_4_bytes_can_count() -> None:
    order = Order(shard_lengths=[2**32, 5], seed=2, shuffle_window_shards=1, global_batch_size=5, partial_batch="carry")
    assert permute(2, "order of shards", 2, 0).tolist() == [1, 0], "else the window would be the large one"
    assert sorted(order.read_epoch(0, start=0, stop=5).tolist()) == list(range(2**32, 2**32 + 5))

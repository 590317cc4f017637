"""Formulas of a step's traffic by hand; tests/integration/test_communication.py counts the real engine's."""

import pytest

from hornet.training.engines.communication import Network, Traffic, count_sent_bytes, estimate_seconds, list_traffic

SIZES = [150_000, 30]
NETWORK = Network(
    ranks_per_node=8, node_bytes_per_second=100.0, gpu_bytes_per_second=400.0, node_hop_seconds=3.0, gpu_hop_seconds=0.5
)


def list_of(stage, num_ranks=4, num_micro_steps=3):
    return list_traffic(
        SIZES, stage=stage, num_ranks=num_ranks, num_micro_steps=num_micro_steps, bucket_elements=100_000
    )


def test_one_rank_says_nothing():
    assert list_of(3, num_ranks=1) == ()


@pytest.mark.parametrize(
    ("stage", "elements"),
    [
        (0, 2 * 150_030),
        (1, 2 * 150_030 + 150_030),
        (2, 2 * 3 * 150_030 + 150_030),
        (3, 3 * 150_032 + 32 + 3 * 150_000),  # pieces of equal length, so 30 become 32
    ],
)
def test_bytes_a_rank_sends_in_a_ring(stage, elements):
    assert count_sent_bytes(list_of(stage), num_ranks=4) == elements * 4 * 3 // 4


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_bytes_hardly_grow_with_ranks(stage):
    few, many = (count_sent_bytes(list_of(stage, num_ranks=n), num_ranks=n) for n in (8, 512))
    assert many == pytest.approx(few * (511 / 512) / (7 / 8), rel=1e-6)


def test_seconds_by_hand():
    """Two nodes: 1 hop between them of 8 + 8 ranks' ring, 14 within; the tree goes up and down."""
    gather = Traffic(kind="all_gather", num_bytes=1600, num_calls=2)
    reduction = Traffic(kind="all_reduce", num_bytes=1600, num_calls=1)
    assert estimate_seconds([gather], num_ranks=16, network=NETWORK) == 1500 / 100 + 2 * (1 * 3 + 14 * 0.5)
    assert estimate_seconds([reduction], num_ranks=16, network=NETWORK) == 3000 / 100 + 2 * (1 * 3 + 7 * 0.5)


def test_one_node_does_not_wait_for_the_network():
    gather = Traffic(kind="all_gather", num_bytes=1600, num_calls=1)
    assert estimate_seconds([gather], num_ranks=8, network=NETWORK) == 1400 / 400 + 7 * 0.5

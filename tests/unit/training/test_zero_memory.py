"""By hand; tests/integration/test_held_memory.py counts the tensors of the real engine."""

import pytest

from hornet.training.engines.zero_config import ZeroConfig
from hornet.training.engines.zero_memory import StateBytes, count_data_parallel_bytes, count_deepspeed_bytes

SIZES = [400_000, 8, 400_000, 92]  # two above stage 3's threshold; 800,100 in all
WHOLE = 4 * 800_100


def count(stage, *, has_ema=False, offloads=False, num_ranks=4, **zero):
    config = ZeroConfig(stage=stage, bucket_elements=1000, **zero)
    return count_deepspeed_bytes(SIZES, config=config, num_ranks=num_ranks, has_ema=has_ema, offloads=offloads)


def test_stages_hold_their_slices():
    slice_ = 4 * (100_000 + 2 + 100_000 + 23)
    assert count(0) == StateBytes(parameters=WHOLE, gradients=WHOLE, optimizer=2 * WHOLE, gathered=0, buckets=0)
    assert count(1) == StateBytes(parameters=WHOLE, gradients=WHOLE, optimizer=3 * slice_, gathered=0, buckets=8000)
    assert count(3) == StateBytes(
        parameters=slice_ + 400, gradients=slice_, optimizer=3 * slice_, gathered=4 * 800_000, buckets=4000
    )


def test_stage_2_keeps_whole_gradients_of_what_its_slice_touches():
    # Slices of 200,025: the second rank's ends in the third parameter, so it touches the first three.
    assert count(2).gradients == 4 * 800_008
    assert count(2).buckets == 8000 + 4 * 800_008, "and the micro batch's own beside them"
    assert count(2, num_ranks=2).gradients == 4 * (400_000 + 8 + 400_000)


def test_an_average_is_one_more_slice_and_an_offloaded_optimizer_none():
    assert count(1, has_ema=True).optimizer == count(1).optimizer * 4 // 3
    assert count(2, has_ema=True, offload_optimizer=True, offloads=True).optimizer == 0
    assert count(2, offload_optimizer=True, offloads=False).optimizer == count(2).optimizer


def test_a_giant_is_not_gathered_all_at_once():
    config = ZeroConfig(stage=3)
    held = count_deepspeed_bytes([3 * 10**9], config=config, num_ranks=100, has_ema=False, offloads=False)
    assert held.gathered == 4 * 10**9


@pytest.mark.parametrize(("num_ranks", "copies"), [(1, 0), (2, 1)])
def test_data_parallelism_copies_gradients_to_its_buckets(num_ranks, copies):
    held = count_data_parallel_bytes(SIZES, num_ranks=num_ranks, has_ema=True)
    assert held.buckets == copies * WHOLE
    assert held.total == (5 + copies) * WHOLE

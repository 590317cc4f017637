"""What a rank holds under each ZeRO stage: the formulas of engines/zero_memory.py against the real engine."""

import json

import pytest

from hornet.training.engines.zero_config import ZeroConfig
from hornet.training.engines.zero_memory import count_deepspeed_bytes
from tests.integration.conftest import run_python
from tests.integration.held_memory import BUCKET_ELEMENTS
from tests.integration.zero_stages import IMAGE_SIZE, MICRO_BATCH_SIZE, NUM_RANKS

pytestmark = pytest.mark.slow

INPUT_BYTES = 4 * NUM_RANKS * MICRO_BATCH_SIZE * 3 * IMAGE_SIZE**2  # the step's micro batches, made by the test


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    file = tmp_path_factory.mktemp("held") / "held.json"
    run_python("-m", "tests.integration.held_memory", str(file))
    return json.loads(file.read_text())


def count(held, stage):
    config = ZeroConfig(stage=stage, bucket_elements=BUCKET_ELEMENTS)
    return count_deepspeed_bytes(held["num_elements"], config=config, num_ranks=NUM_RANKS, has_ema=True, offloads=False)


@pytest.mark.parametrize("stage", range(4))
def test_a_rank_holds_what_the_formula_says(held, stage):
    """Between two micro batches: nothing is gathered, and stage 2 has given its buckets back."""
    planned = count(held, stage)
    expected = planned.total - planned.gathered - (planned.buckets if stage == 2 else 0)
    assert held["stages"][str(stage)]["bytes"] - INPUT_BYTES == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize("stage", [1, 2])
def test_a_rank_holds_its_buckets_too_before_the_backward_pass_ends(held, stage):
    planned = count(held, stage)
    assert held["stages"][str(stage)]["bytes_in_backward"] - INPUT_BYTES == pytest.approx(planned.total, rel=0.02)


def test_stage_3_keeps_small_parameters_whole_and_large_ones_from_forward_to_backward(held):
    planned = count(held, 3)
    slices = sum(4 * -(-elements // NUM_RANKS) for elements in held["num_elements"])
    measured = held["stages"]["3"]
    assert 4 * measured["before_forward"] == planned.parameters - slices
    assert 4 * measured["after_forward"] == planned.parameters - slices + planned.gathered
    assert planned.gathered > 0.5 * slices, "the network has a large parameter"

from hornet.hardware import get_gpu
from hornet.planning.activations import Activations
from hornet.planning.memory import explain_lack, plan_memory
from hornet.training.engines.zero_config import ZeroConfig

GIB = 2**30
LARGE = [1_000_000] * 100
ACTIVATIONS = Activations(fixed=GIB, per_image=GIB)
GPU = get_gpu("rtx4090")  # 24 GiB, of which 7 % are kept free: 22.3 left
STAGE_1 = ZeroConfig(stage=1, bucket_elements=1)


def plan(micro_batch_size, *, num_elements=LARGE, zero=STAGE_1, rank_batch_size=64):
    return plan_memory(
        num_elements,
        zero=zero,
        has_ema=False,
        activations=ACTIVATIONS,
        gpu=GPU,
        num_gpus=64,
        rank_batch_size=rank_batch_size,
        micro_batch_size=micro_batch_size,
    )


def test_a_row_adds_up_and_the_largest_divisor_that_fits_is_named():
    rows = plan(8)
    assert [row.name for row in rows] == [f"zero.stage={stage}" for stage in range(4)]
    assert [row.is_planned for row in rows] == [False, True, False, False]
    row = rows[1]
    assert row.activation_bytes == 9 * GIB
    assert row.total_bytes == row.state.total + 9 * GIB + row.reserve_bytes
    assert row.reserve_bytes == int(0.07 * 24 * GIB)
    assert [row.largest_micro_batch_size for row in rows] == [16] * 4, "0.4 to 1.5 GiB of state, 17 of activations"
    assert explain_lack(row, gpu=GPU, micro_batch_size=8) is None


def test_auto_takes_the_largest():
    assert plan(None)[1].activation_bytes == 17 * GIB


def test_what_does_not_fit_is_told_with_what_would():
    message = explain_lack(plan(32)[1], gpu=GPU, micro_batch_size=32)
    assert message == (
        "micro_batch_size: 32 with zero.stage=1 takes 35.4 GiB, but rtx4090 has 24; micro_batch_size=16 fits, or set "
        "model.activation_checkpointing=true"
    )


def test_where_not_one_image_fits_more_must_change():
    row = plan(1, num_elements=[10**9] * 7)[0]
    assert row.largest_micro_batch_size is None
    assert "shard more (zero.stage), set model.activation_checkpointing=true, or take more or larger GPUs" in (
        explain_lack(row, gpu=GPU, micro_batch_size=1)
    )


def test_finetuning_has_one_way():
    (row,) = plan(8, zero=None)
    assert row.is_planned
    assert row.state.buckets == 4 * sum(LARGE)


def test_an_offloaded_optimizer_is_not_in_the_gpus_memory():
    rows = plan(8, zero=ZeroConfig(stage=2, bucket_elements=1, offload_optimizer=True))
    assert [row.state.optimizer for row in rows[1:]] == [0, 0, 0]
    assert rows[0].state.optimizer == 8 * sum(LARGE), "stage 0 leaves the optimizer to torch"

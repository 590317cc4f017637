"""The roofline on paper, against numbers worked out by hand and against the model's own count of operations."""

import pytest
import timm
import torch
from torch import nn

import hornet  # noqa: F401  registers the models
from benchmarks.necessary import _list_block_work, list_necessary_work
from benchmarks.roofline import list_eager_work
from benchmarks.traffic import count_traffic
from benchmarks.work import Rates, Work, add_up_all
from hornet.model.block import Block
from hornet.model.cost import count_multiply_adds
from hornet.model.hornet import HorNet


def build(name: str, **arguments: object) -> HorNet:
    with torch.device("meta"):
        return timm.create_model(name, **arguments)


@pytest.mark.parametrize("size", [(224, 224), (512, 768)])
@pytest.mark.parametrize("name", ["hornet_tiny_gf", "hornet_tiny_7x7"])
def test_forward_operations_are_those_of_the_model(name, size):
    model = build(name)
    work = list_necessary_work(model, size, num_images=1)
    for kind, cost in count_multiply_adds(model, size).by_kind.items():
        flops = sum(kernel.flops for kernel in work if kernel.kind == kind and not kernel.is_backward)
        assert flops == 2 * cost.executed, kind


def test_the_bytes_of_one_block_worked_out_by_hand():
    # 8 channels, gates of 4 and 8, 16 positions; two bytes a value, four in the running sum.
    block = Block(8, order=2, filter_grid=None, layer_scale_init=1.0)
    work = list(_list_block_work("stage_1", block, (4, 4)))
    forward = (32 + 32) + (24 + 24) + (8 + 8 + 16) + (16 + 16 + 32 + 32) + (32 + 64) + (64 + 32 + 32)
    to_input = (32 + 32 + 32 + 32) + (16 + 16 + 16) + (32 + 32 + 32) + (64 + 32 + 32 + 32) + (32 + 64 + 64)
    to_weight = (32 + 32) + (16 + 16) + (32 + 32) + (64 + 32) + (32 + 64)
    depthwise_backward = 24 + 24 + 24
    assert sum(kernel.num_bytes for kernel in work if not kernel.is_backward) == 16 * forward
    backward = sum(kernel.num_bytes for kernel in work if kernel.is_backward)
    assert backward == 16 * (to_input + to_weight + depthwise_backward)
    # Weights: 8 x 16 in, 12 x 49, 4 x 8, 8 x 8 out, twice 8 x 32.
    assert sum(kernel.flops for kernel in work) == 3 * 2 * 16 * (128 + 588 + 32 + 64 + 512)


def test_a_kernel_takes_the_longer_of_computing_and_moving():
    rates = Rates(product_flops=100.0, vector_flops=10.0, bandwidth=5.0)
    work = {"part": "stage_1", "kind": "pointwise", "is_backward": False}
    moving = Work(**work, flops=100.0, num_bytes=10.0)
    computing = Work(**work, flops=100.0, num_bytes=10.0, is_vector=True)
    assert moving.compute_seconds(rates) == 2.0
    assert computing.compute_seconds(rates) == 10.0
    total = add_up_all([moving, computing], rates)
    assert (total.seconds, total.num_bytes, total.flops) == (12.0, 20.0, 200.0)
    assert total.memory_share == pytest.approx(2 / 12)


def test_traffic_of_a_linear_layer_worked_out_by_hand():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 10))
    product = count_traffic(model, image_size=(4, 4), num_images=2, is_bf16=False)[0]
    assert product.operator == "addmm"
    assert product.num_bytes == 4 * (2 * 48 + 480 + 10 + 2 * 10) / 2
    assert product.flops == 2 * 480
    assert not product.is_backward


def test_traffic_knows_groups_in_both_directions():
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Flatten())
    found = count_traffic(model, image_size=(4, 4), num_images=2, is_bf16=False)
    depthwise = [operator for operator in found if operator.groups == 6]
    assert [operator.flops for operator in depthwise] == [2 * 16 * 6 * 9, 4 * 16 * 6 * 9]
    assert [operator.is_backward for operator in depthwise] == [False, True]


def test_autocast_is_cudas_which_runs_norms_in_float32():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.LayerNorm(16), nn.Linear(16, 10))
    found = count_traffic(model, image_size=(4, 4), num_images=2, is_bf16=True)
    dtypes = {operator.operator: operator.dtype for operator in found if not operator.is_backward}
    assert dtypes["addmm"] is torch.bfloat16
    assert dtypes["native_layer_norm"] is torch.float32


@pytest.mark.slow
def test_eager_code_computes_the_same_and_moves_more():
    model = build("hornet_atto_gf", drop_path_rate=0.1)
    must = list_necessary_work(model, (64, 64), num_images=4)
    traffic = count_traffic(model, image_size=(64, 64), num_images=4, is_bf16=True)
    eager = list_eager_work(traffic, num_parameters=0, num_images=4)
    for kind in ("pointwise", "depthwise", "patch"):
        flops = [sum(kernel.flops for kernel in work if kernel.kind == kind) for work in (must, eager)]
        assert flops[0] == pytest.approx(flops[1]), kind
    rates = Rates()
    both = [add_up_all([kernel for kernel in work if kernel.part == "stage_3"], rates) for work in (must, eager)]
    assert both[1].num_bytes > 2 * both[0].num_bytes
    parts = {kernel.part for kernel in eager}
    assert parts == {"stage_1", "stage_2", "stage_3", "stage_4", "head", "weights"}

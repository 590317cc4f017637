"""Run by test_kernels.py in a process of its own, where Triton interprets kernels on the CPU."""

import pytest
import torch

from hornet.model.gnconv import GnConv
from hornet.model.kernels.depthwise import gated_depthwise
from tests.unit.model.kernels.depthwise_cases import (
    SCALE,
    SHAPES,
    make_case,
    require_agreement,
    require_gradient_of_output,
    run_kernel,
)


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_agrees_with_float64(shape):
    require_agreement(shape, device="cpu", dtype=torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype):
    require_agreement(SHAPES[0], device="cpu", dtype=dtype)


def test_gradients_are_those_of_the_output():
    require_gradient_of_output((1, 5, 4, 4, 12), device="cpu")


def test_the_same_input_gives_the_same_bits():
    case = make_case(SHAPES[-1], device="cpu", dtype=torch.float32)
    assert all(torch.equal(one, other) for one, other in zip(run_kernel(case), run_kernel(case), strict=True))


def test_torch_finds_the_operator_well_made():
    case = make_case((1, 3, 4, 2, 6), device="cpu", dtype=torch.float32)
    torch.library.opcheck(gated_depthwise, (case.y, case.weight, case.bias, 2, SCALE))


def compare(gnconv: GnConv, x: torch.Tensor, run) -> None:
    gnconv.is_fused = False
    plain = gnconv(x)
    names = dict(gnconv.named_parameters())
    expected = torch.autograd.grad(plain.square().sum(), names.values())
    gnconv.is_fused = True
    fused = run(x)
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)
    for name, ours, theirs in zip(
        names, torch.autograd.grad(fused.square().sum(), names.values()), expected, strict=True
    ):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm(), name


@pytest.mark.parametrize("order", [1, 3])
def test_a_fused_gnconv_is_the_plain_one(order):
    gnconv = GnConv(16, order=order, scale=SCALE)
    compare(gnconv, torch.randn(1, 5, 6, 16), gnconv)


def test_a_compiled_fused_gnconv_is_the_plain_one():
    gnconv = GnConv(16, order=2, scale=SCALE)
    compare(gnconv, torch.randn(1, 4, 6, 16), torch.compile(gnconv, backend="aot_eager", fullgraph=True))


def test_a_checkpointed_fused_gnconv_is_the_plain_one():
    gnconv = GnConv(16, order=2, scale=SCALE)
    compare(
        gnconv, torch.randn(1, 4, 6, 16), lambda x: torch.utils.checkpoint.checkpoint(gnconv, x, use_reentrant=False)
    )


def test_autocast_runs_the_kernel_in_bfloat16():
    gnconv = GnConv(16, order=2, scale=SCALE)
    x = torch.randn(1, 4, 6, 16)
    plain = gnconv(x)
    gnconv.is_fused = True
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fused = gnconv(x)
    assert fused.dtype is torch.bfloat16
    assert (fused - plain).norm() <= 0.02 * plain.norm()

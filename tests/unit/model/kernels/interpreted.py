"""Run by test_kernels.py in a process of its own, where Triton interprets kernels on the CPU."""

import pytest
import torch

from hornet.model.gnconv import GnConv
from hornet.model.kernels import depthwise
from hornet.model.kernels.depthwise import gated_depthwise
from tests.unit.model.kernels.depthwise_cases import (
    SCALE,
    SHAPES,
    make_case,
    require_agreement,
)


@pytest.fixture(autouse=True)
def _two_rows_a_program(monkeypatch):
    """Small images then have several partial sums, the last of one row."""
    monkeypatch.setattr(depthwise, "ROWS_A_PROGRAM", 2)


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_agrees_with_float64(shape):
    require_agreement(shape, device="cpu", dtype=torch.float32)


def test_bfloat16_is_rounded_once():
    require_agreement((1, 2, 2, 2, 6), device="cpu", dtype=torch.bfloat16)


def test_torch_finds_the_operator_well_made():
    case = make_case((1, 2, 2, 2, 6), device="cpu", dtype=torch.float32)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(gated_depthwise, (case.y, case.weight, case.bias, 2, SCALE), test_utils=checks)


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


def test_a_fused_gnconv_is_the_plain_one():
    gnconv = GnConv(16, order=3, scale=SCALE)
    compare(gnconv, torch.randn(1, 1, 3, 16), gnconv)


def test_a_compiled_fused_gnconv_is_the_plain_one():
    gnconv = GnConv(16, order=2, scale=SCALE)
    compare(gnconv, torch.randn(1, 1, 3, 16), torch.compile(gnconv, backend="aot_eager", fullgraph=True))


def test_a_checkpointed_fused_gnconv_is_the_plain_one():
    gnconv = GnConv(16, order=2, scale=SCALE)
    compare(
        gnconv, torch.randn(1, 1, 3, 16), lambda x: torch.utils.checkpoint.checkpoint(gnconv, x, use_reentrant=False)
    )


def test_autocast_runs_the_kernel_in_bfloat16():
    gnconv = GnConv(16, order=2, scale=SCALE)
    x = torch.randn(1, 1, 3, 16)
    plain = gnconv(x)
    gnconv.is_fused = True
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fused = gnconv(x)
    assert fused.dtype is torch.bfloat16
    assert (fused - plain).norm() <= 0.02 * plain.norm()

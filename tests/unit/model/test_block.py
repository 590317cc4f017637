import pytest
import torch
from torch.nn import functional

from hornet.model.block import GNCONV_SCALE, Block, sample_drop_path


def build_block(layer_scale_init: float = 0.5) -> Block:
    return Block(8, order=2, filter_grid=None, layer_scale_init=layer_scale_init)


def normalize(x: torch.Tensor) -> torch.Tensor:
    mean = x.mean(dim=-1, keepdim=True)
    variance = (x - mean).square().mean(dim=-1, keepdim=True)
    return (x - mean) / (variance + 1e-6).sqrt()


def test_block_is_its_two_residual_equations() -> None:
    block = build_block().double()
    x = torch.randn(2, 5, 5, 8, dtype=torch.float64)
    expected = x + block.gamma1 * block.gnconv(normalize(x))
    hidden = normalize(expected) @ block.pwconv1.weight.T + block.pwconv1.bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    expected = expected + block.gamma2 * (hidden @ block.pwconv2.weight.T + block.pwconv2.bias)
    torch.testing.assert_close(block(x), expected)
    assert block.gnconv.scale == GNCONV_SCALE == 1 / 3


def test_layer_scales_start_where_asked() -> None:
    block = build_block(layer_scale_init=1e-6)
    assert torch.equal(block.gamma1, torch.full((8,), 1e-6))
    assert torch.equal(block.gamma2, torch.full((8,), 1e-6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_drop_path_is_a_factor_a_sample_that_keeps_the_mean(dtype: torch.dtype) -> None:
    factors = sample_drop_path(torch.ones(20_000, 2, 2, 1, dtype=dtype), 0.3)
    assert factors.shape == (20_000, 1, 1, 1)
    assert set(factors.flatten().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}
    # Four standard deviations of 20,000 draws.
    assert (factors == 0).float().mean().item() == pytest.approx(0.3, abs=4 * (0.21 / 20_000) ** 0.5)


def test_a_kept_branch_is_scaled_by_gamma_and_the_chance_to_be_kept() -> None:
    block = build_block()
    x = torch.randn(1, 3, 3, 8).expand(64, -1, -1, -1)
    with torch.no_grad():
        block.gamma2.zero_()
    branch = block(x) - x
    block.drop_path_rate = 0.2
    ratios = ((block(x) - x) / branch).flatten(1)
    is_kept = ratios[:, 0] > 0.5
    assert 0 < is_kept.sum() < 64
    torch.testing.assert_close(ratios[is_kept], torch.full_like(ratios[is_kept], 1.25), rtol=1e-2, atol=0)
    assert (ratios[~is_kept] == 0).all()


def test_drop_path_acts_in_training_mode_only() -> None:
    block = build_block()
    x = torch.randn(64, 3, 3, 8)
    plain = block(x)
    block.drop_path_rate = 0.5
    assert torch.equal(block.eval()(x), plain)
    assert not torch.equal(block.train()(x), plain)


def test_the_two_branches_are_dropped_independently() -> None:
    block = build_block()
    block.drop_path_rate = 0.5
    x = torch.randn(1, 3, 3, 8).expand(256, -1, -1, -1)
    out = block(x).flatten(1)
    # Neither, first, second or both kept: four different results.
    assert len({tuple(row) for row in out.mul(1e4).round().tolist()}) == 4


def test_feed_forward_is_four_times_as_wide() -> None:
    block = build_block()
    assert block.pwconv1.weight.shape == (32, 8)
    assert functional.linear(torch.ones(1, 8), block.pwconv1.weight).shape == (1, 32)

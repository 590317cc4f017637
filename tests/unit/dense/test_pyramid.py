"""Pyramids against another reading of the original's."""

import pytest
import torch

from hornet.dense.pyramid import FeaturePyramid
from hornet.errors import UserError
from tests.unit.dense import literal
from tests.unit.dense.small_backbone import fill_visibly

CHANNELS = (8, 16, 24, 40)
KINDS = ("fpn", "horfpn_7x7", "horfpn_gf")


def make_maps() -> list[torch.Tensor]:
    torch.manual_seed(0)
    sizes = ((40, 56), (20, 28), (10, 14), (5, 7))
    return [torch.randn(2, count, *size) for count, size in zip(CHANNELS, sizes, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
def test_it_agrees_with_another_reading(kind):
    neck = fill_visibly(FeaturePyramid(CHANNELS, out_channels=32, kind=kind))
    maps = make_maps()
    found, expected = neck(maps), literal.pyramid(maps, neck.state_dict())
    assert [tuple(x.shape[1:]) for x in found] == [(32, 40, 56), (32, 20, 28), (32, 10, 14), (32, 5, 7), (32, 3, 4)]
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() < 1e-5 * theirs.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_learns(kind):
    neck = FeaturePyramid(CHANNELS, out_channels=32, kind=kind)
    sum(x.square().mean() for x in neck(make_maps())).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in neck.parameters())


def test_any_number_of_maps():
    neck = FeaturePyramid((8, 16), out_channels=32, kind="horfpn_7x7")
    assert [tuple(x.shape[2:]) for x in neck(make_maps()[:2])] == [(40, 56), (20, 28), (10, 14)]
    with pytest.raises(UserError, match="in_channels: is empty"):
        FeaturePyramid(())


def test_a_filter_must_divide_the_channels():
    with pytest.raises(UserError, match=r"channels: is 30, but a gnConv of order 2 with global filters"):
        FeaturePyramid(CHANNELS, out_channels=30, kind="horfpn_gf")

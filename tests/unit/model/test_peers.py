"""ConvNeXts of the cost of our small HorNets, and how nearly."""

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import hornet  # noqa: F401  registers the names
from hornet.model.build import build_model
from hornet.model.config import ModelConfig
from hornet.model.sizes import MATCHED_CONVNEXT_WIDTHS

NUM_CLASSES, IMAGE_SIZE = 106, 64

# Measured when the widths were chosen: millions of parameters and of multiply-adds, of the HorNet with global filters
# and of the ConvNeXt; then how far apart they may be.
TABLE = {
    "zepto": ((0.213, 3.11), (0.198, 2.77), 0.12),
    "atto": ((0.797, 10.99), (0.805, 10.81), 0.02),
    "femto": ((1.752, 23.64), (1.701, 22.51), 0.05),
    "pico": ((3.077, 41.06), (3.083, 40.47), 0.02),
    "nano": ((7.720, 104.20), (7.692, 102.65), 0.02),
}


def measure(name):
    """Count on tensors without memory, by torch's own counter."""
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=NUM_CLASSES, **({"img_size": 64} if "hornet" in name else {}))
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, IMAGE_SIZE, IMAGE_SIZE, device="meta"))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return parameters / 1e6, counter.get_total_flops() / 2e6


def test_every_small_size_has_a_peer():
    assert MATCHED_CONVNEXT_WIDTHS.keys() == TABLE.keys()


@pytest.mark.slow
@pytest.mark.parametrize("size", TABLE)
def test_a_peer_has_the_parameters_and_the_multiply_adds_of_its_hornet(size):
    *expected, tolerance = TABLE[size]
    ours, peer = measure(f"hornet_{size}_gf"), measure(f"convnext_matched_{size}")
    for found, (parameters, multiply_adds) in zip((ours, peer), expected, strict=True):
        assert found == pytest.approx((parameters, multiply_adds), abs=0.0051)  # the table's last digit
    assert peer == pytest.approx(ours, rel=tolerance)


@pytest.mark.slow
def test_a_peer_is_trained_as_any_network():
    config = ModelConfig(name="convnext_matched_zepto", drop_path_rate=0.1)
    model = build_model(config, num_classes=3, image_size=32, seed=0)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    assert [stage.blocks[-1].drop_path.drop_prob > 0 for stage in model.stages] == [True] * 4


def test_the_smallest_hornet_keeps_whole_widths():
    model = build_model(ModelConfig(name="hornet_zepto_gf"), num_classes=3, image_size=32, seed=0)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    assert [tuple(block.gnconv.gate_channels) for block in model.stages[3]] == [(4, 8, 16, 32, 64)] * 2

"""Layer ids through timm's real optimizer code, against the original's table."""

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay

import hornet  # noqa: F401 (registers the models)
from hornet.model.build import build_model
from hornet.model.config import ModelConfig
from hornet.model.hornet import HorNet
from hornet.training.config import OptimizerConfig
from hornet.training.optimizer import build_optimizer


def get_original_layer(name: str) -> int:
    """facts/paper.md, section 1.7, for depth 18 in the third stage."""
    parts = name.split(".")
    if parts[0] == "downsample_layers":
        return {0: 0, 1: 2, 2: 3, 3: 12}[int(parts[1])]
    if parts[0] == "stages":
        stage, block = int(parts[1]), int(parts[2])
        return {0: 1, 1: 2, 2: min(3 + block // 2, 11), 3: 12}[stage]
    return 13


def build_on_meta(**arguments: object) -> HorNet:
    with torch.device("meta"):
        model = timm.create_model("hornet_tiny_gf", **arguments)
    assert isinstance(model, HorNet)
    return model


def test_timms_layer_decay_scales_each_parameter_as_the_original() -> None:
    model = build_on_meta()
    groups = param_groups_layer_decay(
        model, weight_decay=0.05, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.7
    )
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    assert len(scales) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        assert scales[id(parameter)] == pytest.approx(0.7 ** (13 - get_original_layer(name))), name


def test_weight_decay_spares_vectors_only_so_filters_decay() -> None:
    model = build_on_meta()
    groups = param_groups_layer_decay(model, weight_decay=0.05, no_weight_decay_list=model.no_weight_decay())
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        assert decays[id(parameter)] == (0.05 if parameter.dim() > 1 else 0.0), name
    assert any(name.endswith("complex_weight") and decays[id(p)] == 0.05 for name, p in model.named_parameters())


@pytest.mark.parametrize(("depth", "last"), [(1, 5), (2, 5), (3, 6), (6, 7), (8, 8), (18, 13), (27, 18)])
def test_other_depths_number_their_layers_without_gaps(depth: int, last: int) -> None:
    with torch.device("meta"):
        model = HorNet(width=8, depths=(2, 3, depth, 2))
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    assert set(layers.values()) == set(range(last + 1))
    for block in range(depth):
        assert layers[f"stages.2.{block}.gamma1"] == 3 + block // 2
    assert layers["downsample_layers.2.1.weight"] == 3
    assert layers["stages.3.0.gamma1"] == layers["downsample_layers.3.0.weight"] == last - 1
    assert layers["head.weight"] == layers["norm.weight"] == last


def test_without_a_head_the_norm_keeps_its_layer() -> None:
    layers = group_parameters(build_on_meta(num_classes=0), build_on_meta().group_matcher(), reverse=True)
    assert layers["norm.weight"] == 13


def get_layer_of_convnext(name: str) -> int:
    """facebookresearch/ConvNeXt @231af90, optim_factory.py, by timm's names."""
    parts = name.split(".")
    if parts[0] == "stages":
        stage = int(parts[1])
        block = int(parts[3]) if parts[2] == "blocks" else 0
        return {0: 1, 1: 2, 2: 3 + block // 3, 3: 12}[stage]
    return 0 if parts[0] == "stem" else 13


@pytest.mark.parametrize("name", ["convnext_small", "convnext_large"])
def test_a_convnext_has_the_layers_of_its_original(name: str) -> None:
    config = ModelConfig(name=name, arguments={"dims": [8, 16, 32, 64]})
    model = build_model(config, num_classes=3, image_size=64, seed=0)
    optimizer = build_optimizer(model, OptimizerConfig(layer_decay=0.8))
    scales = {name: group["lr_scale"] for group in optimizer.param_groups for name in group["names"]}
    assert scales.keys() == dict(model.named_parameters()).keys()
    for parameter, scale in scales.items():
        assert scale == pytest.approx(0.8 ** (13 - get_layer_of_convnext(parameter))), parameter


@pytest.mark.parametrize(("depth", "last"), [(1, 5), (3, 5), (4, 6), (9, 7), (18, 10)])
def test_a_convnext_of_another_depth_numbers_its_layers_without_gaps(depth: int, last: int) -> None:
    config = ModelConfig(name="convnext_atto", arguments={"depths": [2, 1, depth, 2], "dims": [8, 16, 32, 64]})
    model = build_model(config, num_classes=3, image_size=64, seed=0)
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    assert set(layers.values()) == set(range(last + 1))
    assert layers["head.norm.weight"] == layers["head.fc.weight"] == last
    assert layers["stages.3.downsample.0.weight"] == layers["stages.3.blocks.1.gamma"] == last - 1
    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert [coarse[f"stages.{stage}.blocks.0.gamma"] for stage in range(4)] == [1, 2, 3, 4]


def test_coarse_groups_are_stem_stages_and_head() -> None:
    model = build_on_meta()
    layers = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert layers["downsample_layers.0.0.weight"] == 0
    assert [layers[f"stages.{stage}.1.gamma1"] for stage in range(4)] == [1, 2, 3, 4]
    assert layers["downsample_layers.3.0.weight"] == 4
    assert layers["head.bias"] == 5

"""model.name: every classification network that timm knows, and what is refused, by name."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import DropPath
from torch.utils.flop_counter import FlopCounterMode

from hornet.config import ConfigError, build_config
from hornet.errors import UserError
from hornet.model.build import build_model, get_classifier_names
from hornet.model.config import ModelConfig
from hornet.model.cost import count_forward, count_multiply_adds, count_training_flops, require_logits
from hornet.model.resize import fit_to_model, get_resize

SMALL_VIT = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
SMALL_SWIN = {"depths": [1, 1], "embed_dim": 24, "num_heads": [1, 2], "window_size": 4}


def build(name: str, *, image_size: int = 32, **settings: Any) -> torch.nn.Module:
    return build_model(ModelConfig(name=name, **settings), num_classes=3, image_size=image_size, seed=0)


PUBLISHED = {
    "convnext_tiny": 4.47,
    "swin_tiny_patch4_window7_224": 4.5,
    "vit_base_patch16_224": 17.6,
}
"""Multiply-adds (1e9) of the networks' papers at 224 pixels; larger ones are in tests/unit/scaling/test_paper.py."""


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_multiply_adds_are_those_of_the_papers(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    cost = count_multiply_adds(model, 224)
    assert cost.published == cost.executed == pytest.approx(PUBLISHED[name] * 1e9, rel=0.012)
    assert count_training_flops(model, 224) == 6 * cost.executed


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("hornet_atto_gf", 96), ("hornet_pico_7x7", 64)])
def test_torchs_counter_and_ours_agree_on_a_hornet(name: str, size: int) -> None:
    model = build(name, image_size=size)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    assert count_forward(model, size) == (count_multiply_adds(model, size).executed, (2, 3))
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_counting_equals_torchs_counter_on_a_real_pass_and_changes_nothing() -> None:
    model = build("resnet18").eval()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 32, 32))
    assert count_forward(model, 32)[0] * 2 == counter.get_total_flops()
    assert not model.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items()), "running statistics too"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("poolformer_s12", {}),
        ("ese_vovnet19b_slim", {}),
        ("cait_xxs24_224", {"depth": 1}),
        ("vit_tiny_patch16_224", {"depth": 1, "global_pool": "map"}),
        ("efficientnet_b0", {}),
    ],
)
def test_families_that_take_no_sizes_or_take_weights_apart(name: str, arguments: dict[str, Any]) -> None:
    """timm's sentence for several arguments is not Python's; parameters are expanded before a layer sees them."""
    assert count_multiply_adds(build(name, image_size=64, arguments=arguments), 64).executed > 1e6


def test_the_seed_alone_decides_the_weights() -> None:
    torch.manual_seed(5)
    first = build("vit_tiny_patch16_224", arguments=SMALL_VIT).state_dict()
    torch.manual_seed(6)
    second = build("vit_tiny_patch16_224", arguments=SMALL_VIT).state_dict()
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())


def test_drop_path_is_as_said_also_where_the_networks_own_is_not_zero() -> None:
    for rate, expected in ((0.0, []), (0.3, [0.3, 0.3])):
        model = build("swin_tiny_patch4_window7_224", arguments=SMALL_SWIN, drop_path_rate=rate)
        rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
        assert rates == pytest.approx(expected)


@pytest.mark.slow
def test_classifiers_are_found_wherever_they_are() -> None:
    assert get_classifier_names(build("convnext_atto")) == ("head.fc.weight", "head.fc.bias")
    assert get_classifier_names(build("resnet18")) == ("fc.weight", "fc.bias")
    assert get_classifier_names(build("hornet_atto_7x7")) == ("head.weight", "head.bias")


@pytest.mark.parametrize(
    ("name", "scales"),
    [("hornet_atto_gf", ".gamma1"), ("convnext_atto", ".gamma"), ("vit_tiny_patch16_224", ".ls1.gamma")],
)
def test_layer_scales_begin_where_the_setting_says_whatever_the_network_calls_it(name: str, scales: str) -> None:
    weights = build(name, layer_scale_init=0.125).state_dict()
    found = [tensor for key, tensor in weights.items() if key.endswith(scales)]
    assert found
    assert all((tensor == 0.125).all() for tensor in found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hornet_atto_gf", "convnext_atto", "vit_tiny_patch16_224"])
def test_the_heads_weights_are_scaled_and_nothing_else(name: str) -> None:
    plain, scaled = build(name), build(name, head_init_scale=0.001)
    head = get_classifier_names(plain)
    for key, tensor in plain.state_dict().items():
        expected = tensor * 0.001 if key in head else tensor
        torch.testing.assert_close(scaled.state_dict()[key], expected, rtol=1e-6, atol=0)
    assert plain.state_dict()[head[0]].abs().max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head_init_scale": -1.0}, "head_init_scale: must be 0 or more, and finite, not -1"),
        (
            {"head_init_scale": 0.1, "arguments": {"head_init_scale": 0.2}},
            "arguments.head_init_scale: head_init_scale says it too; leave out one of them",
        ),
    ],
)
def test_a_scale_of_the_head_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(name="hornet_atto_gf", **settings)


@pytest.mark.parametrize("how", ["bilinear", "spectral"])
def test_filters_are_resized_as_the_setting_says(how: str) -> None:
    assert get_resize(build("hornet_atto_gf", resize=how)) == how


REFUSED = [
    ({"name": "convnext_ato"}, r"model\.name: no network is called 'convnext_ato'; did you mean convnext_atto or "),
    ({"name": "hornet_atto_gf", "arguments": {"foo": 1}}, "hornet_atto_gf takes no foo; it takes width, "),
    ({"name": "convnext_atto", "arguments": {"foo": 1}}, r"takes no foo; it takes .*, dims, "),
    ({"name": "resnet18", "layer_scale_init": 0.1}, r"model\.layer_scale_init: resnet18 has no such setting"),
    (
        {"name": "convnext_atto", "layer_scale_init": 0.1, "arguments": {"ls_init_value": 0.2}},
        r"model\.arguments\.ls_init_value: model\.layer_scale_init says it too; leave out one of them",
    ),
    ({"name": "vgg11", "drop_path_rate": 0.1}, r"model\.drop_path_rate: vgg11 has no stochastic depth; set it to 0"),
    ({"name": "convnext_atto", "kernels": "fused"}, r"model\.kernels: convnext_atto has no fused kernels"),
    ({"name": "vit_tiny_patch16_224", "arguments": {"depth": 2.5}}, r"cannot be built for .* and depth=2\.5: "),
    ({"name": "convnext_atto", "resize": "spectral"}, r"model\.resize: convnext_atto has no global filters"),
    ({"name": "hornet_atto_7x7", "resize": "spectral"}, r"model\.resize: hornet_atto_7x7 has no global filters"),
    ({"name": "inception_v3"}, r"data\.transform\.image_size: inception_v3 cannot take images of 32 pixels: "),
    ({"name": "deit_tiny_distilled_patch16_224"}, r"model\.name: .* has no single last layer that classifies"),
    ({"name": "resnet18", "arguments": {"layers": [1, 1]}}, "resnet18 cannot take images of 32 pixels: .*layer3"),
    ({"name": "poolformer_s12", "arguments": {"foo": 1}}, "poolformer_s12 takes no foo"),
    ({"name": "hornet_atto_7x7", "module": "no_such_package.x"}, "there is no module 'no_such_package'"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_what_a_network_cannot_follow_is_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(**settings)


def test_a_network_without_a_classifier_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = timm.create_model("convnext_atto", num_classes=0)
    with pytest.raises(UserError, match=r"x gives a tensor of shape \(2, 320\) for two images, not"):
        require_logits(model, num_classes=3, image_size=32, name="x", key="y")


def test_images_of_another_size_to_evaluate_on() -> None:
    model = build("vit_tiny_patch16_224", arguments=SMALL_VIT)
    require_logits(model, num_classes=3, image_size=32, name="x", key="evaluation.image_size")
    with pytest.raises(UserError, match=r"evaluation\.image_size: x cannot take images of 48 pixels: Input height"):
        require_logits(model, num_classes=3, image_size=48, name="x", key="evaluation.image_size")
    dynamic = build("vit_tiny_patch16_224", arguments={**SMALL_VIT, "dynamic_img_size": True})
    require_logits(dynamic, num_classes=3, image_size=48, name="x", key="evaluation.image_size")


def test_arguments_as_a_config_holds_them() -> None:
    values = {"name": "vit_tiny_patch16_224", "arguments": {"depth": 2, "dynamic_img_size": True}}
    assert build_config(ModelConfig, values, source="c").arguments == {"depth": 2, "dynamic_img_size": True}
    problems = {"num_classes": 3, "depth": None}
    with pytest.raises(ConfigError) as caught:
        build_config(ModelConfig, {"name": "resnet18", "arguments": problems}, source="c")
    assert caught.value.problems == [
        "arguments.num_classes: may not be given; it follows from the labels",
        "arguments.depth: must not be null, which timm takes for not given; leave it out",
    ]
    for wrong, message in (
        ({"arguments": {"a": float("nan")}}, "numbers must be finite"),
        ({"arguments": {"a-b": 1}}, "'a-b' is no name of an argument"),
        ({"arguments": {"pretrained_strict": False}}, r"arguments\.pretrained_strict: may not be given"),
        ({"module": ".x"}, "module: must be the dotted name of a Python module"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_config(ModelConfig, {"name": "resnet18", **wrong}, source="c")
    with pytest.raises(ConfigError, match="arguments: must be values by name"):
        build_config(ModelConfig, {"name": "resnet18", "arguments": [1]}, source="c")


OWN = """
    import torch
    from timm.models import register_model
    from torch import nn

    class Mean(nn.Module):
        def __init__(self, num_classes, width=4):
            super().__init__()
            self.stem = nn.Conv2d(3, width, 4, stride=4)
            self.head = nn.Linear(width, num_classes)

        def get_classifier(self):
            return self.head

        def forward(self, images):
            return self.head(self.stem(images).mean((2, 3)))

    @register_model
    def {name}(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **arguments):
        return Mean(**arguments)
"""


def test_a_network_of_ones_own_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_networks_x.py").write_text(textwrap.dedent(OWN).format(name="own_mean_x"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    model = build("own_mean_x", module="own_networks_x", arguments={"width": 5})
    assert sum(parameter.numel() for parameter in model.parameters()) == 5 * 3 * 16 + 5 + 5 * 3 + 3
    assert count_multiply_adds(model, 32).executed == 64 * 5 * 48 + 15
    with pytest.raises(UserError, match="own_mean_x takes no wide; it takes width"):
        build("own_mean_x", module="own_networks_x", arguments={"wide": 5})
    with pytest.raises(UserError, match=r"model\.activation_checkpointing: own_mean_x cannot compute its activations"):
        build("own_mean_x", module="own_networks_x", activation_checkpointing=True)
    (tmp_path / "own_networks_y.py").write_text("import no_such_library")
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        build("own_mean_x", module="own_networks_y")


@pytest.mark.parametrize(
    ("name", "arguments", "resized"),
    [
        ("vit_tiny_patch16_224", SMALL_VIT, {"pos_embed"}),
        ("convnext_atto", {}, set()),
        ("hornet_atto_gf", {}, {f"stages.2.{block}.gnconv.dwconv.complex_weight" for block in range(6)}),
    ],
)
def test_weights_for_another_image_size(name: str, arguments: dict[str, Any], resized: set[str]) -> None:
    small, large = build(name, arguments=arguments), build(name, arguments=arguments, image_size=48)
    before = small.state_dict()
    fitted = fit_to_model(before, large)
    large.load_state_dict(fitted)
    assert {key for key in fitted if fitted[key] is not before[key]} >= resized
    assert {key for key in fitted if fitted[key].shape != before[key].shape} == resized


def test_a_swins_tables_follow_its_window() -> None:
    wide = {**SMALL_SWIN, "window_size": 8}
    small = build("swin_tiny_patch4_window7_224", arguments=SMALL_SWIN)
    large = build("swin_tiny_patch4_window7_224", arguments=wide, image_size=64)
    large.load_state_dict(fit_to_model(small.state_dict(), large))


def test_the_originals_names_of_a_convnext_are_understood() -> None:
    model = build("convnext_atto")
    original = {
        (
            name.replace("stem.0", "downsample_layers.0.0")
            .replace("stem.1", "downsample_layers.0.1")
            .replace(".blocks", "")
            .replace("conv_dw", "dwconv")
            .replace("mlp.fc", "pwconv")
            .replace("head.norm", "norm")
            .replace("head.fc", "head")
            .replace("stages.1.downsample", "downsample_layers.1")
            .replace("stages.2.downsample", "downsample_layers.2")
            .replace("stages.3.downsample", "downsample_layers.3")
        ): tensor.flatten(1) if "mlp.fc" in name and name.endswith("weight") else tensor
        for name, tensor in model.state_dict().items()
    }
    other = build_model(ModelConfig(name="convnext_atto"), num_classes=3, image_size=32, seed=1)
    other.load_state_dict(fit_to_model(original, other))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model.eval()(images), other.eval()(images))

"""What timm, and what builds on it, takes for granted of a convolutional network."""

import copy
import re

import pytest
import timm
import torch
from timm.models import group_parameters, is_model_in_modules
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from hornet.errors import UserError
from hornet.model.convolution import ChannelsLast
from hornet.model.hornet import HorNet
from hornet.model.variants import VARIANTS
from tests.unit.model.small_model import build_small, compute_gradients, fill_visibly

SHAPES = [(2, 8, 16, 16), (2, 16, 8, 8), (2, 32, 4, 4), (2, 64, 2, 2)]
KINDS = [pytest.param((), id="7x7"), pytest.param((2, 3), id="gf")]


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64)


def build_extractor(**arguments: object) -> nn.Module:
    return build_visible(features_only=True, **arguments)


def build_visible(**arguments: object) -> nn.Module:
    """The same visible weights in whatever form is asked for."""
    sizes = {"width": 8, "depths": (1, 1, 2, 1), "img_size": 64, "num_classes": 10}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return timm.create_model("hornet_atto_gf", layer_scale_init=1.0, **{**sizes, **arguments}).eval()


# Stages as modules


@pytest.mark.parametrize("filter_stages", KINDS)
def test_hooks_on_stages_see_their_maps_as_other_convolutional_networks_show_them(
    filter_stages: tuple[int, ...], images: torch.Tensor
) -> None:
    model = fill_visibly(build_small(filter_stages=filter_stages)).eval()
    seen = {}
    for info in model.feature_info:
        model.get_submodule(info["module"]).register_forward_hook(
            lambda module, inputs, output, name=info["module"]: seen.update({name: output})
        )
    expected = model.forward_intermediates(images, intermediates_only=True)
    seen.clear()
    model(images)
    assert list(seen) == ["stages.0", "stages.1", "stages.2", "stages.3"]
    assert [tuple(output.shape) for output in seen.values()] == SHAPES
    for output, reference in zip(seen.values(), expected, strict=True):
        assert torch.equal(output, reference)


def test_hooks_on_downsampling_layers_and_blocks_fire_too(images: torch.Tensor) -> None:
    model = build_small().eval()
    seen = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: seen.append(name))
    model(images)
    lists = {name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    assert set(seen) == {name for name, _ in model.named_modules()} - lists
    assert len(seen) == len(set(seen))


def test_a_hook_that_changes_a_stages_output_changes_the_network(images: torch.Tensor) -> None:
    model = fill_visibly(build_small()).eval()
    before = model(images)
    model.stages[1].register_forward_hook(lambda module, inputs, output: output.flip(1))
    assert not torch.allclose(model(images), before)


def test_a_stage_can_be_wrapped(images: torch.Tensor) -> None:
    class Flipped(nn.Module):
        def __init__(self, stage: nn.Module) -> None:
            super().__init__()
            self.stage = stage

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.stage(x).flip(1)

    model, hooked = build_visible(), build_visible()
    model.stages[2] = Flipped(model.stages[2])
    hooked.stages[2].register_forward_hook(lambda module, inputs, output: output.flip(1))
    assert torch.equal(model(images), hooked(images))


def test_gradients_reach_a_hooked_map_as_class_activation_maps_need_them(images: torch.Tensor) -> None:
    model = fill_visibly(build_small()).eval()
    kept = []
    model.stages[3].register_forward_hook(lambda module, inputs, output: kept.append(output))
    logits = model(images)
    gradient = torch.autograd.grad(logits[:, 1].sum(), kept[0])[0]
    assert gradient.shape == kept[0].shape == SHAPES[3]
    # Mean, norm and head are all that follow: the same derivative from the head alone.
    features = kept[0].detach().requires_grad_()
    expected = torch.autograd.grad(model.forward_head(features)[:, 1].sum(), features)[0]
    torch.testing.assert_close(gradient, expected)


# Features


@pytest.mark.slow
@pytest.mark.parametrize("feature_cls", [None, "getter", "hook", "fx"])
@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (1, 3), (0, 2)])
def test_every_way_to_extract_features_gives_the_same_maps(
    feature_cls: str | None, out_indices: tuple[int, ...], images: torch.Tensor
) -> None:
    extractor = build_extractor(feature_cls=feature_cls, out_indices=out_indices)
    expected = build_visible().forward_intermediates(images, indices=list(out_indices), intermediates_only=True)
    maps = extractor(images)
    assert [tuple(found.shape) for found in maps] == [SHAPES[index] for index in out_indices]
    for found, reference in zip(maps, expected, strict=True):
        torch.testing.assert_close(found, reference)
    assert extractor.feature_info.channels() == [SHAPES[index][1] for index in out_indices]
    assert extractor.feature_info.reduction() == [4 * 2**index for index in out_indices]
    assert extractor.feature_info.module_name() == [f"stages.{index}" for index in out_indices]


@pytest.mark.parametrize("feature_cls", ["list", "dict"])
def test_extractors_that_rebuild_a_network_are_refused(feature_cls: str) -> None:
    with pytest.raises(UserError, match=rf"feature_cls: '{feature_cls}' takes networks apart .* use 'hook' or 'fx'"):
        build_extractor(feature_cls=feature_cls)


@pytest.mark.parametrize(("indices", "expected"), [(None, [0, 1, 2, 3]), (2, [2, 3]), ([0, -1], [0, 3]), ([1], [1])])
def test_intermediates_take_indices_as_timm_does(
    indices: int | list[int] | None, expected: list[int], images: torch.Tensor
) -> None:
    model = build_visible()
    everything = model.forward_intermediates(images, intermediates_only=True)
    maps = model.forward_intermediates(images, indices=indices, intermediates_only=True)
    assert len(maps) == len(expected)
    assert all(torch.equal(found, everything[index]) for found, index in zip(maps, expected, strict=True))


def test_intermediates_that_stop_early_compute_no_later_stage(images: torch.Tensor) -> None:
    model = build_visible()
    calls = []
    for stage in model.stages:
        stage.register_forward_hook(lambda module, *_: calls.append(module))
    final, maps = model.forward_intermediates(images, indices=[0, 1], stop_early=True)
    assert calls == list(model.stages[:2])
    assert torch.equal(final, maps[-1])


@pytest.mark.parametrize("last", [0, 2, 3])
def test_pruned_networks_end_at_the_last_stage_that_is_wanted(last: int, images: torch.Tensor) -> None:
    model, whole = build_visible(), build_visible()
    assert model.prune_intermediate_layers([0, last] if last else [0]) == ([0, last] if last else [0])
    assert len(model.stages) == len(model.downsample_layers) == last + 1
    assert model.num_features == model.head_hidden_size == SHAPES[last][1]
    assert isinstance(model.get_classifier(), nn.Identity)
    reference = whole.forward_intermediates(images, indices=[last], intermediates_only=True)[0]
    assert torch.equal(model.forward_features(images), reference)


def test_images_for_some_stages_may_be_smaller() -> None:
    extractor = build_extractor(out_indices=(0, 1))
    assert [x.shape[-1] for x in extractor(torch.randn(1, 3, 8, 8))] == [2, 1]
    with pytest.raises(UserError, match="images: are 4 x 8 pixels, but 2 stages of HorNet need 8 a side or more"):
        extractor(torch.randn(1, 3, 4, 8))


# Tracing


@pytest.mark.parametrize("filter_stages", KINDS)
@pytest.mark.parametrize("is_training", [False, True])
def test_torch_fx_traces_the_network(filter_stages: tuple[int, ...], is_training: bool, images: torch.Tensor) -> None:
    model = fill_visibly(build_small(filter_stages=filter_stages, drop_path_rate=0.3)).train(is_training)
    traced = torch.fx.symbolic_trace(model)
    torch.manual_seed(3)
    expected = compute_gradients(model, images)
    torch.manual_seed(3)
    found = compute_gradients(traced, images)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    # Neither the size nor the batch of the trace is in it, since there was none.
    other = torch.randn(3, 3, 97, 130)
    torch.manual_seed(3)
    reference = model(other)
    torch.manual_seed(3)
    assert torch.equal(traced(other), reference)


@pytest.mark.slow
def test_a_traced_network_is_right_in_every_dtype(images: torch.Tensor) -> None:
    model = build_visible().double()
    assert torch.equal(torch.fx.symbolic_trace(model)(images.double()), model(images.double()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model = build_visible()
        assert torch.equal(torch.fx.symbolic_trace(model)(images), model(images))


@pytest.mark.slow
def test_torchvisions_feature_extractor_finds_stages_and_blocks(images: torch.Tensor) -> None:
    model = build_visible()
    _, names = get_graph_node_names(model)
    assert any(name.startswith("stages.2.1.gnconv") for name in names)
    extractor = create_feature_extractor(model, {"stages.1": "second", "stages.3": "last", "head": "logits"})
    maps = extractor(images)
    reference = model.forward_intermediates(images, indices=[1, 3], intermediates_only=True)
    assert torch.equal(maps["second"], reference[0])
    assert torch.equal(maps["last"], reference[1])
    assert torch.equal(maps["logits"], model(images))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_torchscript_is_refused_in_a_sentence() -> None:
    sentence = "TorchScript: is deprecated in PyTorch, and HorNet leaves it out; use torch.export, ONNX or"
    with pytest.raises(UserError, match=sentence):
        torch.jit.script(build_small())
    with pytest.raises(UserError, match=sentence):
        torch.jit.script(build_extractor())
    with pytest.raises(UserError, match=f"scriptable=True: {sentence}"):
        build_small(scriptable=True)


# Arguments


@pytest.mark.parametrize("kind", ["avg", "max", "avgmax"])
def test_pooling_is_that_of_timm(kind: str, images: torch.Tensor) -> None:
    model = build_visible(global_pool=kind)
    reference = timm.layers.SelectAdaptivePool2d(pool_type=kind, flatten=True)
    pooled = model.norm(reference(model.forward_features(images)))
    torch.testing.assert_close(model(images), model.get_classifier()(pooled))
    torch.testing.assert_close(model.forward_head(model.forward_features(images), pre_logits=True), pooled)
    fresh = build_visible()
    assert list(fresh.state_dict()) == list(model.state_dict())
    fresh.reset_classifier(10, kind)
    assert fresh.global_pool == kind


@pytest.mark.slow
def test_device_and_dtype_are_those_asked_for(images: torch.Tensor) -> None:
    on_meta = timm.create_model("hornet_large_gf", device="meta", dtype=torch.float16)
    assert {(p.device.type, p.dtype) for p in on_meta.parameters()} == {("meta", torch.float16)}
    rounded, exact = build_visible(dtype=torch.bfloat16), build_visible()
    for name, parameter in exact.named_parameters():
        assert torch.equal(rounded.get_parameter(name), parameter.bfloat16()), name
    assert build_visible(device=torch.device("cpu"), dtype=torch.float64)(images.double()).dtype is torch.float64
    assert next(build_extractor(device="meta").parameters()).is_meta


def test_what_cannot_be_changed_is_taken_as_it_is_and_refused_otherwise() -> None:
    build_small(output_stride=32, act_layer="gelu")
    advice = "no dilated form of it has been trained; choose a decoder that takes maps of stride 32"
    with pytest.raises(UserError, match=f"output_stride: HorNet's stride is 32, and cannot be 16: {advice}"):
        build_small(output_stride=16)
    with pytest.raises(UserError, match="act_layer: HorNet's activation is gelu, and cannot be silu"):
        build_small(act_layer="silu")


@pytest.mark.parametrize("argument", ["kernel_sizes", "norm_layer", "ls_init_value", "drop_path", "image_size", "dims"])
def test_no_argument_is_swallowed(argument: str) -> None:
    with pytest.raises(TypeError, match=argument):
        build_small(**{argument: 7})


def test_drop_path_rises_as_in_timm_and_other_input_channels_run() -> None:
    rates = [
        rate for stage in timm.layers.calculate_drop_path_rates(0.3, [2, 2, 6, 2], stagewise=True) for rate in stage
    ]
    model = timm.create_model("hornet_atto_gf", drop_path_rate=0.3, in_chans=4)
    assert [block.drop_path_rate for stage in model.stages for block in stage] == pytest.approx(rates)
    assert model(torch.randn(1, 4, 32, 32)).shape == (1, 1000)
    assert model.in_chans == 4


@pytest.mark.parametrize("in_chans", [1, 4])
def test_pretrained_weights_are_adapted_to_other_channels_and_classes(in_chans: int, images: torch.Tensor) -> None:
    source = build_visible()
    overlay = {"state_dict": source.state_dict(), "num_classes": 10}
    model = build_small(pretrained=True, pretrained_cfg_overlay=overlay, in_chans=in_chans, num_classes=5)
    assert model.downsample_layers[0][0].weight.shape[1] == in_chans
    assert model.head.weight.shape[0] == 5
    assert torch.equal(model.stages[0][0].gamma1, source.stages[0][0].gamma1)


# The whole


def test_the_family_is_found_by_its_name() -> None:
    assert set(timm.list_models(module="hornet")) == set(VARIANTS)
    assert is_model_in_modules("hornet_tiny_gf", ["hornet"])
    assert "hornet" in timm.list_modules()
    entry_point = timm.model_entrypoint("hornet_tiny_gf")
    assert getattr(__import__(entry_point.__module__, fromlist=["hornet"]), entry_point.__name__) is entry_point
    # What timm puts into __all__ is there.
    exec(f"from {entry_point.__module__} import *", namespace := {})
    assert namespace["hornet_tiny_gf"] is entry_point
    assert timm.models.get_pretrained_cfg("hornet_tiny_gf").paper_ids == "arXiv:2207.14284"


@pytest.mark.parametrize("filter_stages", KINDS)
def test_every_parameter_has_a_layer(filter_stages: tuple[int, ...]) -> None:
    model = build_small(filter_stages=filter_stages)
    names = {name for name, _ in model.named_parameters()}
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
        assert set(groups) == names
        # Each entry of the matcher matches something, and one more group takes what is left: norm and head.
        assert sorted(set(groups.values())) == list(range(max(groups.values()) + 1))


def test_features_and_head_make_the_forward_pass(images: torch.Tensor) -> None:
    model = build_visible()
    assert torch.equal(model.forward_head(model.forward_features(images)), model(images))
    model.reset_classifier(0)
    pooled = model(images)
    assert pooled.shape == (2, model.num_features)
    model.reset_classifier(0, "")
    assert model(images).shape == (2, model.num_features, 2, 2)
    model.reset_classifier(3, "avg")
    assert model(images).shape == (2, 3)
    assert model.num_classes == model.get_classifier().out_features == 3


def test_state_dicts_are_read_strictly() -> None:
    model = build_small()
    weights = model.state_dict()
    with pytest.raises(RuntimeError, match=r"stages\.0\.0\.gamma1"):
        model.load_state_dict({name: tensor for name, tensor in weights.items() if name != "stages.0.0.gamma1"})
    with pytest.raises(RuntimeError, match="unknown"):
        model.load_state_dict({**weights, "unknown": torch.zeros(1)})
    allowed = re.compile(r"(downsample_layers|stages)\.\d\.\d+\.|norm\.|head\.")
    assert all(allowed.match(name) for name in weights)


def test_copies_are_apart_and_keep_what_was_set(images: torch.Tensor) -> None:
    model = build_visible()
    model.set_grad_checkpointing()
    twin = copy.deepcopy(model)
    assert all(stage.grad_checkpointing for stage in twin.stages)
    expected = model(images)
    nn.init.zeros_(model.stages[0][0].gamma1)
    assert torch.equal(twin(images), expected)
    assert not ChannelsLast.grad_checkpointing


@pytest.mark.parametrize("filter_stages", KINDS)
@pytest.mark.parametrize("size", [(31, 64), (64, 16), (1, 1)])
def test_images_that_are_too_small_are_refused_in_a_sentence(
    filter_stages: tuple[int, ...], size: tuple[int, int]
) -> None:
    model = build_small(filter_stages=filter_stages).eval()
    sentence = f"images: are {size[0]} x {size[1]} pixels, but 4 stages of HorNet need 32 a side or more"
    for run in (model, model.forward_features, model.forward_intermediates, torch.fx.symbolic_trace(model)):
        with pytest.raises(UserError, match=sentence):
            run(torch.randn(1, 3, *size))
    assert isinstance(model, HorNet)

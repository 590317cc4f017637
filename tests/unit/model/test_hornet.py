"""timm's conventions on a small model, and what training asks of it."""

import copy
import pickle

import pytest
import timm
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from hornet.model.hornet import HorNet, compute_drop_path_rates
from tests.unit.model.small_model import build_small, compute_gradients, fill_visibly


def build_extractor(**arguments: object) -> nn.Module:
    sizes = {"width": 8, "depths": (1, 1, 2, 1), "img_size": 64}
    return timm.create_model("hornet_atto_gf", features_only=True, **sizes, **arguments)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64)


def test_features_come_as_nchw_and_the_head_takes_them(images: torch.Tensor) -> None:
    model = build_small().eval()
    features = model.forward_features(images)
    assert features.shape == (2, 64, 2, 2)
    assert model.output_fmt == "NCHW"
    torch.testing.assert_close(model.forward_head(features), model(images))
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.num_features) == (2, model.head_hidden_size)
    torch.testing.assert_close(model.get_classifier()(pooled), model(images))
    torch.testing.assert_close(pooled, model.norm(features.mean(dim=(2, 3))))


@pytest.mark.parametrize("filter_stages", [(), (2, 3)])
@pytest.mark.parametrize("size", [(64, 64), (96, 64), (65, 99), (32, 224), (200, 40)])
def test_any_image_size_of_32_pixels_or_more_runs(filter_stages: tuple[int, ...], size: tuple[int, int]) -> None:
    assert build_small(filter_stages=filter_stages).eval()(torch.randn(1, 3, *size)).shape == (1, 10)


def test_channels_last_images_give_the_same_logits(images: torch.Tensor) -> None:
    model = fill_visibly(build_small()).eval()
    torch.testing.assert_close(model(images.contiguous(memory_format=torch.channels_last)), model(images))


def test_features_only_gives_the_map_of_each_stage(images: torch.Tensor) -> None:
    extractor = build_extractor()
    assert extractor.feature_info.channels() == [8, 16, 32, 64]
    assert extractor.feature_info.reduction() == [4, 8, 16, 32]
    maps = extractor(images)
    assert [tuple(x.shape) for x in maps] == [(2, 8, 16, 16), (2, 16, 8, 8), (2, 32, 4, 4), (2, 64, 2, 2)]


def test_features_only_of_chosen_stages_prunes_the_rest(images: torch.Tensor) -> None:
    model = fill_visibly(build_small())
    extractor = build_extractor(out_indices=(0, 2))
    missing, _ = extractor.model.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    assert not any(name.startswith(("model.stages.3", "model.head", "model.norm")) for name in extractor.state_dict())
    expected = model.forward_intermediates(images, indices=[0, 2], intermediates_only=True)
    for ours, reference in zip(extractor(images), expected, strict=True):
        torch.testing.assert_close(ours, reference)


def test_intermediates_end_in_the_features_and_know_both_layouts(images: torch.Tensor) -> None:
    model = fill_visibly(build_small()).eval()
    final, maps = model.forward_intermediates(images)
    torch.testing.assert_close(final, model.forward_features(images))
    torch.testing.assert_close(maps[-1], final)
    _, maps_bhwc = model.forward_intermediates(images, indices=1, norm=True, output_fmt="NHWC")
    torch.testing.assert_close(maps_bhwc[0], model.norm(final.permute(0, 2, 3, 1)))
    with pytest.raises(ValueError, match="output_fmt is 'NCL'"):
        model.forward_intermediates(images, output_fmt="NCL")


def test_reset_classifier_gives_a_fresh_head_of_the_models_dtype(images: torch.Tensor) -> None:
    model = build_small().double()
    model.reset_classifier(7)
    assert model.num_classes == 7
    assert model(images.double()).shape == (2, 7)
    assert model.head.weight.std().item() == pytest.approx(0.02, rel=0.15)
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)
    assert model(images.double()).shape == (2, 64)


def test_without_pooling_the_normed_map_comes_out(images: torch.Tensor) -> None:
    model = build_small(num_classes=0, global_pool="").eval()
    assert model(images).shape == (2, 64, 2, 2)
    with pytest.raises(ValueError, match="num_classes must be 0"):
        model.reset_classifier(5)
    with pytest.raises(ValueError, match="global_pool is 'catavgmax'"):
        model.reset_classifier(5, "catavgmax")


def test_other_input_channels() -> None:
    assert build_small(in_chans=5)(torch.randn(1, 5, 64, 64)).shape == (1, 10)


def test_drop_rate_acts_on_the_pooled_features_in_training() -> None:
    model = build_small(drop_rate=0.5)
    features = torch.randn(4, 64, 2, 2)
    assert (model.train().forward_head(features, pre_logits=True) == 0).float().mean() > 0.3
    assert (model.eval().forward_head(features, pre_logits=True) == 0).sum() == 0


def test_head_init_scale_scales_the_head() -> None:
    assert build_small(head_init_scale=0.001).head.weight.abs().max() < 1e-3
    assert build_small(head_init_scale=1.0).head.weight.abs().max() > 1e-2


def test_initial_weights_follow_the_original() -> None:
    model = build_small(width=32, layer_scale_init=1e-6)
    for name, parameter in model.named_parameters():
        leaf = name.rsplit(".", 1)[-1]
        if leaf in ("gamma1", "gamma2"):
            assert (parameter == 1e-6).all(), name
        elif leaf == "bias":
            assert (parameter == 0).all(), name
        elif parameter.dim() == 1:
            assert (parameter == 1).all(), name
        else:
            tolerance = 5 * 0.02 / (2 * parameter.numel()) ** 0.5
            assert parameter.std().item() == pytest.approx(0.02, abs=tolerance), name


def test_a_model_from_the_meta_device_can_be_initialised() -> None:
    with torch.device("meta"):
        model = build_small()
    model = model.to_empty(device="cpu")
    model.init_weights()
    assert model(torch.randn(1, 3, 64, 64)).isfinite().all()
    assert model.stages[2][0].gnconv.dwconv.complex_weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_drop_path_rates_are_linear_and_can_be_set_at_any_time() -> None:
    model = build_small(drop_path_rate=0.2)

    def read_rates() -> list[float]:
        return [block.drop_path_rate for stage in model.stages for block in stage]

    assert read_rates() == pytest.approx(torch.linspace(0, 0.2, 5).tolist())
    model.set_drop_path_rate(0.4)
    assert read_rates() == pytest.approx(torch.linspace(0, 0.4, 5).tolist())
    model.set_drop_path_rate(0.0)
    assert read_rates() == [0.0] * 5
    assert compute_drop_path_rates(0.3, 1) == [0.0]


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_drop_path_rate_outside_its_range_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=rf"drop_path_rate is {rate}, but must lie in \[0, 1\)"):
        build_small().set_drop_path_rate(rate)


@pytest.mark.slow
def test_checkpointed_activations_give_the_same_gradients_with_drop_path_on(images: torch.Tensor) -> None:
    model = fill_visibly(build_small(drop_path_rate=0.5)).train()
    torch.manual_seed(3)
    plain = compute_gradients(model, images)
    model.set_grad_checkpointing()
    torch.manual_seed(3)
    recomputed = compute_gradients(model, images)
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)
    model.set_grad_checkpointing(enable=False)
    assert not any(stage.grad_checkpointing for stage in model.stages)


def test_every_parameter_gets_a_gradient(images: torch.Tensor) -> None:
    gradients = compute_gradients(fill_visibly(build_small()), images)
    assert all(gradient.abs().sum() > 0 for gradient in gradients.values())


@pytest.mark.parametrize("mode", ["autocast", "cast"])
def test_bfloat16_is_near_float32(mode: str, images: torch.Tensor) -> None:
    model = build_small(layer_scale_init=0.1).eval()
    exact = model.forward_head(model.forward_features(images), pre_logits=True)
    if mode == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model.forward_head(model.forward_features(images), pre_logits=True)
            gradients = compute_gradients(model, images)
    else:
        model = model.bfloat16()
        rounded = model.forward_head(model.forward_features(images.bfloat16()), pre_logits=True)
        gradients = compute_gradients(model, images.bfloat16())
    assert (rounded.float() - exact).norm() / exact.norm() < 3e-2
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize("filter_stages", [(), (2, 3)])
def test_gradients_of_each_image_come_by_vmap(filter_stages: tuple[int, ...], images: torch.Tensor) -> None:
    model = fill_visibly(build_small(filter_stages=filter_stages))
    parameters = dict(model.named_parameters())

    def compute_loss(parameters: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        return functional_call(model, parameters, (image[None],)).square().mean()

    found = vmap(grad(compute_loss), in_dims=(None, 0))(parameters, images)
    for number, image in enumerate(images):
        alone = torch.autograd.grad(compute_loss(parameters, image), list(parameters.values()))
        for name, expected in zip(parameters, alone, strict=True):
            torch.testing.assert_close(found[name][number], expected, rtol=1e-3, atol=1e-5)


def test_copies_and_pickles_compute_the_same(images: torch.Tensor) -> None:
    model = fill_visibly(build_small()).eval()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(images), model(images))


def test_no_parameter_is_a_scalar_or_complex_and_there_are_no_buffers() -> None:
    # DeepSpeed refuses the first two; buffers would not be broadcast.
    model = build_small()
    assert all(parameter.dim() > 0 and not parameter.is_complex() for parameter in model.parameters())
    assert not list(model.buffers())
    assert all(parameter.is_contiguous() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"depths": (2, 2)},
            r"orders is \(2, 3, 4, 5\), but must hold 2 numbers of 1 or more, one a stage",
        ),
        ({"depths": (2, 2, 0, 2)}, r"depths is \(2, 2, 0, 2\), but must hold 4 numbers of 1 or more"),
        ({"orders": (2, 3, 4)}, r"orders is \(2, 3, 4\), but must hold 4 numbers"),
        ({"orders": (2, 3, 4, 0)}, r"orders is \(2, 3, 4, 0\), but must hold 4 numbers of 1 or more"),
        ({"width": 9}, "channels is 9, but a gnConv of order 2"),
        ({"filter_stages": (3, 4)}, r"filter_stages is \(3, 4\), but stages are numbered 0 to 3"),
        ({"filter_stages": (3,), "img_size": 16}, "img_size is 16, but stage 4 needs 32 pixels a side or more"),
        ({"drop_path_rate": 2.0}, "drop_path_rate is 2.0"),
        ({"global_pool": "sum"}, 'global_pool is \'sum\', but must be "avg", "max", "avgmax" or ""'),
        ({"global_pool": ""}, "num_classes must be 0"),
    ],
)
def test_impossible_networks_are_refused_by_name(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HorNet(**{"width": 8, "depths": (1, 1, 1, 1), **arguments})

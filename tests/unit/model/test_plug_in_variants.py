"""The named comparisons: isotropic HorNets, gnConv in ConvNeXt-T and Swin-T.

No published number of these could be verified, so there is no table to meet: parameters and multiply-adds are counted
here by hand from the shapes, and what runs is counted by torch. The same hand counts the hosts, whose numbers timm has.
"""

import dataclasses
from itertools import pairwise
from pathlib import Path

import pytest
import timm
import torch
from timm.models import group_parameters
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import hornet  # noqa: F401  registers the names
from benchmarks.literal import ChannelsFirstNorm, LiteralBlock, LiteralGnConv
from hornet.errors import UserError
from hornet.model import gnconv
from hornet.model.build import build_model
from hornet.model.config import ModelConfig
from hornet.model.cost import count_multiply_adds, count_parameters
from hornet.model.hornet import HorNet
from hornet.model.resize import fit_to_model, get_filter_grids, resize_filters

ISOTROPIC = [f"hornet_isotropic_{shape}_small_{kind}" for shape in ("deit", "convnext") for kind in ("7x7", "gf")]
HOSTED = [f"{host}_tiny_gnconv_{kind}" for host in ("convnext", "swin") for kind in ("7x7", "gf")]
ROOT = Path(__file__).resolve().parents[3]
SMALL = {
    "hornet_isotropic": {"width": 16, "depths": (3,), "orders": (2,)},
    "convnext": {"depths": (1, 1, 2, 1), "dims": (8, 16, 32, 64)},
    "swin": {"depths": (1, 1, 2, 1), "embed_dim": 8, "num_heads": (1, 1, 2, 2)},
}


def get_small_sizes(name: str) -> dict:
    return next(sizes for start, sizes in SMALL.items() if name.startswith(start))


def build_small(name: str, **arguments: object) -> nn.Module:
    return timm.create_model(name, **{**get_small_sizes(name), "img_size": 64, "num_classes": 10, **arguments})


def build_on_meta(name: str, **arguments: object) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **arguments).eval()


def count_flops(model: nn.Module, size: int) -> int:
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, size, size, device="meta"))
    return counter.get_total_flops()


# By hand: (parameters, multiply-adds)


def add(*parts: tuple[int, int]) -> tuple[int, int]:
    return sum(part[0] for part in parts), sum(part[1] for part in parts)


def count_linear(inputs: int, outputs: int, positions: int, *, bias: int = 1) -> tuple[int, int]:
    return inputs * outputs + bias * outputs, positions * inputs * outputs


def count_norm(channels: int) -> tuple[int, int]:
    return 2 * channels, 0


def count_gnconv(c: int, order: int, side: int, *, has_filter: bool) -> tuple[int, int]:
    """On a map of side x side: projections, widenings, and a 7x7 convolution or a filter over all gates."""
    gates = [c // 2**i for i in range(order)]
    spatial, n = sum(gates), side * side
    parts = [count_linear(c, 2 * c, n), count_linear(c, c, n)]
    parts += [count_linear(narrow, wide, n) for wide, narrow in pairwise(gates)]
    if has_filter:
        half, k = spatial // 2, side // 2 + 1
        rows, columns = n * 2 * k, (2 * side) ** 2 * k
        parts += [count_norm(spatial), count_norm(spatial), (9 * half, 9 * half * n)]
        parts.append((half * side * k * 2, half * 2 * (rows + columns)))
    else:
        parts.append((50 * spatial, 49 * spatial * n))
    return add(*parts)


def count_attention(c: int, heads: int, side: int) -> tuple[int, int]:
    """Window attention on whole windows of 7 x 7."""
    n = side * side
    products = 2 * n * 49 * c
    return add(count_linear(c, 3 * c, n), count_linear(c, c, n), (13 * 13 * heads, products))


def count_feed_forward(c: int, side: int) -> tuple[int, int]:
    return add(count_linear(c, 4 * c, side * side), count_linear(4 * c, c, side * side))


def count_isotropic(*, depth: int, num_branches: int, has_filter: bool) -> tuple[int, int]:
    """Norms and layer scales: one of each a branch."""
    c, side = 384, 14
    mixer = count_gnconv(c, 4, side, has_filter=has_filter)
    block = add(mixer, count_feed_forward(c, side), *[add(count_norm(c), (c, 0))] * num_branches)
    stem = add(count_linear(3 * 256, c, side * side), count_norm(c))
    return add(stem, *[block] * depth, count_norm(c), count_linear(c, 1000, 1))


def count_hosted(host: str, kind: str, *, depths: tuple[int, ...]) -> tuple[int, int]:
    """`kind` "host" for the mixers that are there already."""
    parts = [add(count_linear(48, 96, 56 * 56), count_norm(96))]
    for stage, depth in enumerate(depths):
        c, side = 96 * 2**stage, 56 // 2**stage
        if stage:
            is_swin = host == "swin"  # which norms four positions at once
            reduction = count_linear(2 * c, c, side * side, bias=0 if is_swin else 1)
            parts += [count_norm(2 * c if is_swin else c // 2), reduction]
        if kind != "host":
            mixer = count_gnconv(c, stage + 2, side, has_filter=kind == "gf" and stage >= 2)
        else:
            own = {"convnext": (50 * c, 49 * c * side * side), "swin": count_attention(c, 3 * 2**stage, side)}
            mixer = own[host]
        around = [count_norm(c), (c, 0)] if host == "convnext" else [count_norm(c), count_norm(c)]
        parts += [add(mixer, count_feed_forward(c, side), *around)] * depth
    return add(*parts, count_norm(768), count_linear(768, 1000, 1))


DEPTHS = {"convnext": (3, 3, 9, 3), "swin": (2, 2, 6, 2)}


@pytest.mark.slow
@pytest.mark.parametrize(("host", "name"), [("convnext", "convnext_tiny"), ("swin", "swin_tiny_patch4_window7_224")])
def test_the_hand_that_counts_knows_the_hosts(host: str, name: str) -> None:
    # Two downsamplings differ: Swin's linear layer sees 4 C of the stage before, ConvNeXt's convolution the same.
    parameters, multiply_adds = count_hosted(host, "host", depths=DEPTHS[host])
    model = build_on_meta(name)
    assert count_parameters(model) == parameters
    assert count_flops(model, 224) == 2 * multiply_adds
    published = {"convnext": (28.6, 4.5), "swin": (28.3, 4.5)}[host]
    assert (round(parameters / 1e6, 1), round(multiply_adds / 1e9, 1)) == published


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTED)
def test_hosts_with_gnconv_have_the_shapes_that_were_counted(name: str) -> None:
    host, kind = name.split("_")[0], name.split("_")[-1]
    parameters, multiply_adds = count_hosted(host, kind, depths=DEPTHS[host])
    model = build_on_meta(name)
    assert count_parameters(model) == parameters
    assert count_flops(model, 224) == 2 * multiply_adds


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["7x7", "gf"])
@pytest.mark.parametrize(
    ("shape", "depth", "arguments"), [("deit", 12, {}), ("convnext", 18, {}), ("convnext", 12, {"depths": (12,)})]
)
def test_isotropic_networks_have_the_shapes_that_were_counted(
    kind: str, shape: str, depth: int, arguments: dict
) -> None:
    parameters, multiply_adds = count_isotropic(
        depth=depth, num_branches=2 if shape == "deit" else 1, has_filter=kind == "gf"
    )
    model = build_on_meta(f"hornet_isotropic_{shape}_small_{kind}", **arguments)
    assert count_parameters(model) == parameters
    assert count_flops(model, 224) == 2 * multiply_adds == 2 * count_multiply_adds(model, 224).executed


def test_the_docs_say_what_was_counted() -> None:
    text = (ROOT / "docs/plug_in.md").read_text()
    for name in ISOTROPIC + HOSTED:
        kind = name.split("_")[-1]
        if name in ISOTROPIC:
            is_deit = "deit" in name
            counts = count_isotropic(depth=12 if is_deit else 18, num_branches=1 + is_deit, has_filter=kind == "gf")
        else:
            host = name.split("_")[0]
            counts = count_hosted(host, kind, depths=DEPTHS[host])
        assert f"| `{name}` | {counts[0] / 1e6:.2f} M | {counts[1] / 1e9:.2f} G |" in text


# What they compute


@pytest.mark.parametrize("kind", ["7x7", "gf"])
@pytest.mark.parametrize("shape", ["deit", "convnext"])
@pytest.mark.parametrize("size", [64, 96])
def test_isotropic_networks_compute_what_is_written_about_them(shape: str, kind: str, size: int) -> None:
    model = build_small(f"hornet_isotropic_{shape}_small_{kind}").eval()
    for name, parameter in model.named_parameters():
        is_scale = "gamma" in name or (parameter.dim() == 1 and name.endswith("weight"))
        nn.init.normal_(parameter, mean=1.0 if is_scale else 0.0, std=0.2)
    images = torch.randn(2, 3, size, size)
    grid = (4, 3) if kind == "gf" else None

    stem, norm = model.downsample_layers[0]
    x = functional.conv2d(images, stem.weight, stem.bias, stride=16).permute(0, 2, 3, 1)
    x = functional.layer_norm(x, (16,), norm.weight, norm.bias, 1e-6).permute(0, 3, 1, 2)
    for block in model.stages[0]:
        if shape == "deit":
            literal = LiteralBlock(16, order=2, grid=grid, drop_rate=0.0)
            literal.load_state_dict(block.state_dict())
            x = literal(x)
        else:
            gnconv, normed = LiteralGnConv(16, order=2, grid=grid), ChannelsFirstNorm(16)
            gnconv.load_state_dict(block.gnconv.state_dict())
            normed.load_state_dict(block.norm.state_dict())
            y = block.pwconv2(functional.gelu(block.pwconv1(normed(gnconv(x)).permute(0, 2, 3, 1))))
            x = x + (block.gamma * y).permute(0, 3, 1, 2)
    torch.testing.assert_close(model.forward_features(images), x, rtol=1e-4, atol=1e-4 * x.abs().max().item())
    pooled = functional.layer_norm(x.mean((2, 3)), (16,), model.norm.weight, model.norm.bias, 1e-6)
    expected = pooled @ model.head.weight.T + model.head.bias
    assert (model(images) - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("name", ISOTROPIC + HOSTED)
def test_each_trains_and_keeps_timms_conventions(name: str) -> None:
    model = build_small(name, drop_path_rate=0.1, in_chans=4)
    images, labels = torch.randn(2, 4, 64, 64), torch.tensor([1, 7])
    model.set_grad_checkpointing()
    loss = functional.cross_entropy(model(images), labels)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    torch.optim.SGD(model.parameters(), lr=0.02).step()
    model.eval()
    assert functional.cross_entropy(model(images), labels) < loss
    assert torch.equal(model.forward_head(model.forward_features(images)), model(images))
    assert model.forward_head(model.forward_features(images), pre_logits=True).shape == (2, model.num_features)

    names = {name for name, _ in model.named_parameters()}
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
        assert set(groups) == names
        assert sorted(set(groups.values())) == list(range(max(groups.values()) + 1))
    assert not model.no_weight_decay()
    assert not list(model.buffers())
    assert model.get_classifier().out_features == 10
    model.reset_classifier(3)
    assert model(images).shape == (2, 3)
    config = model.pretrained_cfg
    assert config["input_size"] == (3, 224, 224)
    assert isinstance(model.get_submodule(config["first_conv"]), nn.Conv2d)
    assert model.get_submodule(config["classifier"]) is model.get_classifier()


def test_layers_of_isotropic_networks_are_stem_blocks_and_head() -> None:
    model = build_small("hornet_isotropic_deit_small_gf")
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    assert layers["downsample_layers.0.0.weight"] == 0
    assert [layers[f"stages.0.{block}.gamma1"] for block in range(3)] == [1, 2, 3]
    assert layers["norm.weight"] == layers["head.weight"] == 4


@pytest.mark.parametrize("name", ISOTROPIC + HOSTED)
def test_features_are_maps_of_the_named_reductions(name: str) -> None:
    extractor = build_small(name, features_only=True).eval()
    maps = extractor(torch.randn(1, 3, 64, 64))
    reductions = [16] if name in ISOTROPIC else [4, 8, 16, 32]
    assert extractor.feature_info.reduction() == reductions
    for found, channels, reduction in zip(maps, extractor.feature_info.channels(), reductions, strict=True):
        assert found.shape == (1, channels, 64 // reduction, 64 // reduction)


@pytest.mark.parametrize("name", [name for name in ISOTROPIC + HOSTED if name.endswith("gf")])
def test_filters_are_shaped_for_the_image_size_and_others_run(name: str) -> None:
    small, large = build_small(name).eval(), build_small(name, img_size=(96, 128)).eval()
    grids = [(4, 3)] * 3 if name in ISOTROPIC else [(2, 2), (4, 3), (4, 3)]
    assert sorted(get_filter_grids(small).values()) == grids
    images = torch.randn(1, 3, 96, 128)
    expected = small(images)
    large.load_state_dict(resize_filters(small.state_dict(), grids=get_filter_grids(large)))
    torch.testing.assert_close(large(images), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ISOTROPIC[2:] + HOSTED if name.endswith("gf")])
def test_a_run_builds_each_from_its_settings(name: str) -> None:
    config = ModelConfig(name=name, arguments=get_small_sizes(name), drop_path_rate=0.1, activation_checkpointing=True)
    small_images = build_model(config, num_classes=10, image_size=64, seed=0)
    larger = build_model(config, num_classes=10, image_size=96, seed=1)
    larger.load_state_dict(fit_to_model(small_images.state_dict(), larger))
    images = torch.randn(2, 3, 96, 96)
    torch.testing.assert_close(larger.eval()(images), small_images.eval()(images))
    with pytest.raises(UserError, match="kernels is 'fused', which needs a CUDA device"):
        build_model(dataclasses.replace(config, kernels="fused"), num_classes=10, image_size=64, seed=0)


def test_a_run_that_gives_a_wrong_argument_is_told_the_hosts_too() -> None:
    config = ModelConfig(name="swin_tiny_gnconv_gf", arguments={"dim_of_heads": 7})
    with pytest.raises(UserError, match=r"takes no dim_of_heads; it takes orders, filter_stages, patch_size, .*depths"):
        build_model(config, num_classes=10, image_size=64, seed=0)


def test_stages_that_keep_their_attention_follow_another_image_size_too() -> None:
    arguments = {"orders": (None, None, 4, 5), "filter_stages": (3,)}
    small, large = (build_small("swin_tiny_gnconv_7x7", **arguments, img_size=size) for size in (8, 64))
    fitted = fit_to_model(small.state_dict(), large)
    large.load_state_dict(fitted)
    tables = [name for name in fitted if name.endswith("relative_position_bias_table")]
    assert len(tables) == 2
    assert {name for name in fitted if fitted[name].shape != small.state_dict()[name].shape} == {
        *tables,
        "layers.3.blocks.0.attn.dwconv.complex_weight",
    }
    assert large.no_weight_decay() == set(tables)


@pytest.mark.parametrize("name", HOSTED)
def test_kernels_are_chosen_for_the_7x7_convolutions_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gnconv, "require_kernels", lambda: None)
    model = build_small(name)
    model.use_kernels("fused")
    fused = {name: module.is_fused for name, module in model.named_modules() if isinstance(module, gnconv.GnConv)}
    has_filters = {name.removesuffix(".dwconv.complex_weight") for name in get_filter_grids(model)}
    assert fused == {name: name not in has_filters for name in fused}
    model.use_kernels("plain")
    assert not any(module.is_fused for module in model.modules() if isinstance(module, gnconv.GnConv))


def test_the_names_are_listed() -> None:
    assert set(timm.list_models("hornet_isotropic_*")) == set(ISOTROPIC)
    assert set(timm.list_models("*_gnconv_*")) == set(timm.list_models(module="plug_in_variants")) == set(HOSTED)
    for name in HOSTED:
        entry_point = timm.model_entrypoint(name)
        assert getattr(__import__(entry_point.__module__, fromlist=["hornet"]), name) is entry_point
        assert timm.models.get_pretrained_cfg(name).paper_ids == "arXiv:2207.14284"
    assert timm.models.get_pretrained_cfg("hornet_isotropic_deit_small_gf").pool_size == (14, 14)


@pytest.mark.parametrize("name", ["hornet_isotropic_deit_small_7x7", *HOSTED[::2]])
def test_no_argument_is_swallowed(name: str) -> None:
    with pytest.raises(TypeError, match="dim_of_heads"):
        build_small(name, dim_of_heads=7)


def test_isotropic_networks_refuse_what_they_cannot_be() -> None:
    with pytest.raises(UserError, match="images: are 8 x 64 pixels, but 1 stage of HorNet needs 16 a side or more"):
        build_small("hornet_isotropic_deit_small_7x7")(torch.randn(1, 3, 8, 64))
    with pytest.raises(UserError, match="output_stride: HorNet's stride is 16, and cannot be 32"):
        build_small("hornet_isotropic_deit_small_7x7", output_stride=32)
    with pytest.raises(ValueError, match="img_size is 8, but stage 1 needs 16 pixels a side or more"):
        build_small("hornet_isotropic_deit_small_gf", img_size=8)
    with pytest.raises(ValueError, match="block_form is 'resnet', but must be one of hornet, convnext"):
        HorNet(width=8, depths=(1,), orders=(2,), block_form="resnet")
    with pytest.raises(ValueError, match=r"depths is \(\), but must hold one or more numbers"):
        HorNet(width=8, depths=(), orders=())


def test_blocks_of_both_forms_drop_whole_branches() -> None:
    for shape in ("deit", "convnext"):
        model = build_small(f"hornet_isotropic_{shape}_small_7x7", drop_path_rate=0.4, layer_scale_init=1.0).train()
        block = model.stages[0][2]
        assert [b.drop_path_rate for b in model.stages[0]] == pytest.approx([0.0, 0.2, 0.4])
        x = torch.randn(64, 4, 4, 16)
        is_kept = (block(x) != x).flatten(1).any(1)
        assert 0 < is_kept.sum() < 64
        block.eval()
        assert (block(x) != x).flatten(1).any(1).all()

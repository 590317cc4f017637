"""gnConv in other networks, against benchmarks/literal.py: another implementation, channels first, with torch.fft."""

import copy
from functools import partial

import pytest
import timm
import torch
from timm.models.convnext import ConvNeXtBlock
from timm.models.swin_transformer import SwinTransformerBlock
from torch import nn
from torch.nn import functional

from benchmarks.literal import ChannelsFirstNorm, LiteralGnConv
from hornet.errors import UserError
from hornet.model.block import Block
from hornet.model.global_filter import GlobalLocalFilter
from hornet.model.gnconv import GnConv
from hornet.model.hornet import HorNet
from hornet.model.plug_in import GnConv2d, GnConvSwinBlock, replace_mixers
from hornet.model.resize import get_filter_grids, resize_filters

KINDS = [pytest.param(None, id="7x7"), pytest.param((6, 4), id="gf")]


def fill_visibly(module: nn.Module) -> nn.Module:
    """Weights so large that every parameter shows in the output; names that scale are near one."""
    for name, parameter in module.named_parameters():
        is_scale = parameter.dim() == 1 and name.endswith(("gamma", "weight"))
        nn.init.normal_(parameter, mean=1.0 if is_scale else 0.0, std=0.2)
    return module


def build_convnext(**arguments: object) -> nn.Module:
    sizes = {"depths": (1, 1, 2, 1), "dims": (8, 16, 32, 64), "num_classes": 10}
    return timm.create_model("convnext_atto", **{**sizes, **arguments})


def build_swin(**arguments: object) -> nn.Module:
    sizes = {"depths": (1, 1, 2, 1), "embed_dim": 8, "num_heads": (1, 1, 2, 2), "num_classes": 10, "img_size": 64}
    return timm.create_model("swin_tiny_patch4_window7_224", **{**sizes, **arguments})


# The layer


@pytest.mark.parametrize("filter_grid", KINDS)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("size", [(6, 6), (5, 9)])
def test_outputs_and_all_gradients_are_those_of_the_literal_network(
    filter_grid: tuple[int, int] | None, order: int, size: tuple[int, int]
) -> None:
    ours = GnConv2d(16, order=order, filter_grid=filter_grid)
    theirs = LiteralGnConv(16, order=order, grid=filter_grid)
    theirs.load_state_dict(fill_visibly(ours).state_dict())
    x = torch.randn(2, 16, *size)
    found, expected = [], []
    for module, results in ((ours, found), (theirs, expected)):
        given = x.clone().requires_grad_()
        output = module(given)
        results += [output, *torch.autograd.grad(output.square().mean(), [given, *module.parameters()])]
    for ours_, theirs_ in zip(found, expected, strict=True):
        assert (ours_ - theirs_).norm() <= 2e-5 * theirs_.norm()


@pytest.mark.parametrize("filter_grid", KINDS)
def test_it_is_the_gnconv_of_a_hornet_block_with_its_weights(filter_grid: tuple[int, int] | None) -> None:
    block = Block(16, order=3, filter_grid=filter_grid, layer_scale_init=1.0)
    layer = GnConv2d(16, order=3, filter_grid=filter_grid)
    layer.load_state_dict(block.gnconv.state_dict())
    x = torch.randn(2, 16, 6, 6)
    assert torch.equal(layer(x), block.gnconv(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


def test_the_scale_multiplies_each_gate() -> None:
    # Gates without biases: s appears once a gate.
    once, twice = GnConv2d(8, order=3, scale=0.5), GnConv2d(8, order=3, scale=1.0)
    twice.load_state_dict(once.state_dict())
    x = torch.randn(1, 8, 7, 7)
    torch.testing.assert_close(twice(x), 2.0**3 * once(x))
    assert GnConv2d(8, order=1).scale == 1 / 3


def test_channels_last_goes_in_and_comes_out_without_a_copy() -> None:
    layer = GnConv2d(8, order=2)
    x = torch.randn(2, 8, 5, 7)
    assert layer(x).is_contiguous(memory_format=torch.channels_last)
    seen = []
    layer.proj_in.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    given = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(layer(given), layer(x))
    assert seen[0].data_ptr() == given.data_ptr()
    assert seen[0].is_contiguous()


@pytest.mark.parametrize("filter_grid", [None, (14, 8)], ids=["7x7", "gf"])
@pytest.mark.parametrize("order", [2, 5])
def test_at_the_start_the_output_is_large_enough_for_a_norm(filter_grid: tuple[int, int] | None, order: int) -> None:
    # LayerNorm and BatchNorm add 1e-6 to 1e-5 to the variance: with HorNet's own initial weights, nothing is left.
    layer = GnConv2d(64, order=order, filter_grid=filter_grid)
    assert 1e-6 < layer(torch.randn(4, 64, 14, 14)).var() < 1.0
    assert all((p == 0).all() for name, p in layer.named_parameters() if name.endswith("bias"))
    weights = copy.deepcopy(layer.state_dict())
    layer.reset_parameters()
    assert not torch.equal(weights["proj_in.weight"], layer.proj_in.weight)


@pytest.mark.parametrize("filter_grid", KINDS)
def test_autocast_and_low_precision_run(filter_grid: tuple[int, int] | None) -> None:
    layer = GnConv2d(16, order=2, filter_grid=filter_grid)
    x = torch.randn(2, 16, 6, 6)
    exact = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (layer(x) - exact).norm() < 0.03 * exact.norm()
    rounded = copy.deepcopy(layer).bfloat16()(x.bfloat16())
    assert rounded.dtype is torch.bfloat16
    assert (rounded - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("filter_grid", KINDS)
def test_torch_fx_traces_it(filter_grid: tuple[int, int] | None) -> None:
    layer = GnConv2d(16, order=2, filter_grid=filter_grid).eval()
    traced = torch.fx.symbolic_trace(layer)
    for shape in ((2, 16, 6, 6), (3, 16, 9, 7)):
        x = torch.randn(*shape)
        assert torch.equal(traced(x), layer(x))


@pytest.mark.slow
def test_each_map_size_is_its_own_compiled_graph_and_the_batch_is_free() -> None:
    # Symbolic sizes of maps break Inductor.
    layer = GnConv2d(4, order=1).eval()
    graphs = []
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph)
    for shape, num_graphs in (((2, 4, 6, 6), 1), ((2, 4, 9, 7), 2), ((3, 4, 6, 6), 3), ((5, 4, 6, 6), 3)):
        x = torch.randn(*shape)
        torch.testing.assert_close(compiled(x), layer(x))
        assert len(graphs) == num_graphs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"channels": 24, "order": 5},
            "channels is 24, but a gnConv of order 5 halves them 4 times: give a multiple of 16",
        ),
        ({"channels": 16, "order": 0}, "order is 0, but gnConv needs at least one gate"),
        (
            {"channels": 20, "order": 3, "filter_grid": (7, 4)},
            "channels: is 20, .* give a multiple of 8, or another order",
        ),
        ({"channels": 24, "order": 5, "filter_grid": (7, 4)}, "channels is 24, .* give a multiple of 16"),
        ({"channels": 16, "order": 2, "filter_grid": 14}, r"filter_grid: is 14, but must be two numbers of 1 or more"),
        (
            {"channels": 16, "order": 2, "filter_grid": (7, 0)},
            r"filter_grid: is \(7, 0\), .* \(H, W // 2 \+ 1\) for maps",
        ),
    ],
)
def test_impossible_layers_are_refused_by_name(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GnConv2d(**arguments)


@pytest.mark.parametrize("shape", [(2, 7, 7, 16), (2, 49, 16), (2, 8, 7, 7)])
def test_what_is_no_map_of_its_channels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"GnConv2d: takes maps \(batch, 16, height, width\), but got a tensor of"):
        GnConv2d(16, order=2)(torch.randn(*shape))


# ConvNeXt and Swin


def test_a_convnext_block_computes_what_is_written_about_it() -> None:
    model = build_convnext(conv_mlp=False)
    replace_mixers(model, orders=2, filter_stages=(2,), image_size=96)
    for stage, grid in ((1, None), (2, (6, 4))):
        block = fill_visibly(model.stages[stage].blocks[0]).eval()
        channels = 8 * 2**stage
        literal, norm = LiteralGnConv(channels, order=2, grid=grid), ChannelsFirstNorm(channels)
        literal.load_state_dict(block.conv_dw.state_dict())
        norm.load_state_dict(block.norm.state_dict())
        x = torch.randn(2, channels, 6, 6)
        y = norm(literal(x)).permute(0, 2, 3, 1)
        y = functional.linear(y, block.mlp.fc1.weight, block.mlp.fc1.bias)
        y = functional.linear(functional.gelu(y), block.mlp.fc2.weight, block.mlp.fc2.bias)
        expected = x + (y * block.gamma).permute(0, 3, 1, 2)
        assert (block(x) - expected).norm() < 1e-5 * expected.norm()


def test_a_swin_block_with_gnconv_is_hornets_block() -> None:
    theirs = fill_visibly(Block(16, order=3, filter_grid=(6, 4), layer_scale_init=1.0))
    for gamma in (theirs.gamma1, theirs.gamma2):
        nn.init.ones_(gamma)
    host = SwinTransformerBlock(16, (6, 6), window_size=3, shift_size=1, norm_layer=partial(nn.LayerNorm, eps=1e-6))
    ours = GnConvSwinBlock(host, GnConv(16, order=3, scale=1 / 3, filter_grid=(6, 4)))
    names = {"gnconv.": "attn.", "pwconv1": "mlp.fc1", "pwconv2": "mlp.fc2"}
    weights = {}
    for name, tensor in theirs.state_dict().items():
        for old, new in names.items():
            name = name.replace(old, new, 1) if name.startswith(old) else name
        weights[name] = tensor
    ours.load_state_dict({name: tensor for name, tensor in weights.items() if not name.startswith("gamma")})
    x = torch.randn(2, 6, 6, 16)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("build", [build_convnext, build_swin])
@pytest.mark.parametrize("filter_stages", [(), (2, 3)], ids=["7x7", "gf"])
def test_a_network_with_gnconv_trains(build: object, filter_stages: tuple[int, ...]) -> None:
    model = build(drop_path_rate=0.1)
    image_size = 64 if build is build_convnext else None
    replaced = replace_mixers(model, filter_stages=filter_stages, image_size=image_size)
    assert len(replaced) == 5
    for name, old in replaced.items():
        assert isinstance(model.get_submodule(name), GnConv)
        assert old not in set(model.modules())
    assert not any("relative_position" in name for name, _ in model.named_parameters())
    assert not list(model.buffers())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    images, labels = torch.randn(2, 3, 64, 64), torch.tensor([1, 7])
    losses = []
    for _ in range(3):
        loss = functional.cross_entropy(model(images), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[2] < losses[0]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_everything_else_stays_as_it_was() -> None:
    model = build_convnext()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    replaced = replace_mixers(model, orders=(None, None, 4, 5))
    assert list(replaced) == [
        "stages.2.blocks.0.conv_dw",
        "stages.2.blocks.1.conv_dw",
        "stages.3.blocks.0.conv_dw",
    ]
    assert torch.equal(replaced["stages.3.blocks.0.conv_dw"].weight, before["stages.3.blocks.0.conv_dw.weight"])
    assert isinstance(model.stages[0].blocks[0].conv_dw, nn.Conv2d)
    after = model.state_dict()
    kept = [name for name in before if ".conv_dw." not in name or name.startswith(("stages.0", "stages.1"))]
    assert all(torch.equal(after[name], before[name]) for name in kept)
    assert [model.stages[stage].blocks[0].conv_dw.gate_channels for stage in (2, 3)] == [
        [4, 8, 16, 32],
        [4, 8, 16, 32, 64],
    ]


def test_new_layers_are_where_and_in_what_dtype_the_old_ones_were() -> None:
    model = build_swin().double()
    replace_mixers(model, filter_stages=(3,))
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert model(torch.randn(1, 3, 64, 64, dtype=torch.float64)).dtype is torch.float64
    with torch.device("meta"):
        model = build_convnext().eval()
    replace_mixers(model)
    assert all(p.is_meta for p in model.parameters())
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("build", [build_convnext, build_swin])
def test_filters_have_the_grids_of_the_maps_and_follow_another_image_size(build: object) -> None:
    def build_for(size: int) -> nn.Module:
        model = build(**({"img_size": size, "strict_img_size": False} if build is build_swin else {})).eval()
        replace_mixers(model, filter_stages=(2, 3), image_size=size)
        return model

    small, large = build_for(64), build_for(96)
    assert sorted(get_filter_grids(small).values()) == [(2, 2), (4, 3), (4, 3)]
    assert sorted(get_filter_grids(large).values()) == [(3, 2), (6, 4), (6, 4)]
    images = torch.randn(1, 3, 96, 96)
    on_the_fly = small(images)
    large.load_state_dict(resize_filters(small.state_dict(), grids=get_filter_grids(large)))
    torch.testing.assert_close(large(images), on_the_fly)
    again = build_for(96)
    with pytest.warns(UserWarning, match="global filters of 4 x 3 were resampled to 6 x 4"):
        again.load_state_dict(small.state_dict())
    torch.testing.assert_close(again(images), on_the_fly)


def test_a_swin_takes_its_filters_to_another_input_size() -> None:
    model = build_swin().eval()
    replace_mixers(model, orders=(None, 2, 3, 3), filter_stages=(2, 3))
    twin = copy.deepcopy(model)
    model.set_input_size(img_size=(96, 128))
    assert sorted(get_filter_grids(model).values()) == [(3, 3), (6, 5), (6, 5)]
    assert model(torch.randn(1, 3, 96, 128)).shape == (1, 10)
    # What each filter does at the new size is what it did on the fly.
    layer, before = model.layers[2].blocks[0].attn, twin.layers[2].blocks[0].attn
    x = torch.randn(1, 6, 8, 32)
    torch.testing.assert_close(layer(x), before(x))


def test_reinitialised_swins_draw_their_gnconvs_anew() -> None:
    model = build_swin()
    replace_mixers(model, orders=2)
    nn.init.zeros_(model.layers[0].blocks[0].attn.proj_in.weight)
    model.init_weights("reset")
    assert model.layers[0].blocks[0].attn.proj_in.weight.std().item() == pytest.approx(8**-0.5, rel=0.2)


@pytest.mark.slow
def test_checkpointed_activations_give_the_same_gradients() -> None:
    images = torch.randn(2, 3, 64, 64)
    for build in (build_convnext, build_swin):
        model = build(drop_path_rate=0.0)
        replace_mixers(model)
        gradients = []
        for enable in (False, True):
            model.set_grad_checkpointing(enable)
            model.zero_grad()
            model(images).square().mean().backward()
            gradients.append([p.grad.clone() for p in model.parameters()])
        assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (
            lambda: timm.create_model("resnet18"),
            {},
            "replace_mixers: knows .* but not in a ResNet; put a GnConv2d where its",
        ),
        (lambda: HorNet(width=8, depths=(1, 1, 1, 1)), {}, "but not in a HorNet"),
        (lambda: build_convnext(features_only=True), {}, "but not in a FeatureListNet"),
        (build_convnext, {"orders": (2, 3)}, "orders: has 2 entries, but the network has 4 stages"),
        (build_convnext, {"orders": (None,) * 4}, "orders: is None for every stage, which replaces nothing"),
        (build_convnext, {"orders": 6}, r"stages.0.blocks.0: channels is 8, but a gnConv of order 6"),
        (build_swin, {"orders": 4, "filter_stages": (0,)}, r"layers.0.blocks.0: channels: is 8, .* multiple of 16"),
        (build_convnext, {"filter_stages": (2,)}, "image_size: is missing, but global filters are shaped for one"),
        (build_convnext, {"filter_stages": (3,), "image_size": 16}, r"image_size: is \(16, 16\), but stage 4 needs 32"),
        (build_convnext, {"filter_stages": (4,)}, r"filter_stages: is \(4,\), but must name stages that get a gnConv"),
        (build_convnext, {"orders": (None, 2, 2, 2), "filter_stages": (0,)}, r"filter_stages: is \(0,\)"),
        (build_swin, {"filter_stages": (3,), "image_size": 96}, r"image_size: is \(96, 96\), .* made for \(64, 64\)"),
        (lambda: build_convnext(output_stride=8), {}, r"stages.2.blocks.0 .*dilated .* build .* output_stride=32"),
    ],
)
def test_what_cannot_be_replaced_is_refused_and_nothing_changes(build: object, arguments: dict, message: str) -> None:
    model = build()
    names = [name for name, _ in model.named_modules()]
    with pytest.raises(UserError, match=message):
        replace_mixers(model, **arguments)
    assert [name for name, _ in model.named_modules()] == names


@pytest.mark.parametrize("build", [build_convnext, build_swin])
def test_a_second_replacement_is_refused(build: object) -> None:
    model = build()
    replace_mixers(model, orders=(2, None, None, None))
    with pytest.raises(UserError, match=r"blocks.0 has a GnConv(2d)? already"):
        replace_mixers(model)
    assert len(replace_mixers(model, orders=(None, 3, 3, 3))) == 4


def test_blocks_are_still_those_of_timm() -> None:
    # What replace_mixers relies on of timm: these attributes, and that a block of ConvNeXt calls its convolution alone.
    assert isinstance(build_convnext().stages[0].blocks[0], ConvNeXtBlock)
    block = build_swin().layers[0].blocks[0]
    assert isinstance(block, SwinTransformerBlock)
    assert {"norm1", "attn", "drop_path1", "norm2", "mlp", "drop_path2"} <= {name for name, _ in block.named_children()}
    assert not any(isinstance(module, GlobalLocalFilter) for module in block.modules())

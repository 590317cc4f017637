"""torch.compile and torch.export: the same numbers, one graph, nothing complex."""

import functools
import shutil
from collections.abc import Iterator

import pytest
import timm
import torch
import torch._dynamo.config
from torch import nn

from hornet.model import fourier
from hornet.model.build import build_model
from hornet.model.config import ModelConfig
from hornet.model.global_filter import GlobalLocalFilter
from hornet.model.hornet import HorNet
from hornet.model.sizes import Resize
from tests.unit.model import small_model
from tests.unit.model.small_model import compute_gradients, fill_visibly

Gradients = dict[str, torch.Tensor]


def build_small(**arguments: object) -> HorNet:
    """One block a stage: tracing takes its time per block."""
    return small_model.build_small(depths=(1, 1, 1, 1), **arguments)


def require_close(ours: Gradients, reference: Gradients) -> None:
    for name, gradient in reference.items():
        difference = (ours[name] - gradient).norm() / gradient.norm()
        assert difference < 1e-4, f"{name}: relative difference {difference}"


class CountingBackend:
    """Runs graphs as they are and counts them."""

    def __init__(self) -> None:
        self.num_graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        self.num_graphs += 1
        return graph


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    """A compiler that has seen nothing, with torch's own limit of graphs, beyond which fullgraph=True raises."""
    torch.compiler.reset()
    # Not by monkeypatch, whose undoing deletes the setting.
    with torch._dynamo.config.patch(recompile_limit=8):
        yield


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="on CPUs Inductor needs a C++ compiler (g++)")
def test_inductor_equals_eager_in_every_gradient() -> None:
    # At 96 pixels the last stage has an odd grid, 3 x 3, and all filters are resized on the fly.
    model = fill_visibly(build_small())
    images = torch.randn(2, 3, 96, 96)
    compiled = torch.compile(model, fullgraph=True)
    require_close(compute_gradients(model, images, compiled), compute_gradients(model, images))


@pytest.mark.slow
def test_differentiating_the_traced_graph_equals_eager() -> None:
    model = fill_visibly(build_small())
    images = torch.randn(2, 3, 96, 96)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    require_close(compute_gradients(model, images, compiled), compute_gradients(model, images))


@pytest.mark.slow
def test_checkpointed_activations_and_autocast_compile_as_one_graph() -> None:
    model = fill_visibly(build_small())
    model.set_grad_checkpointing()
    images = torch.randn(2, 3, 64, 64)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        require_close(compute_gradients(model, images, compiled), compute_gradients(model, images))


@pytest.mark.slow
def test_a_changing_drop_path_rate_compiles_at_most_once_more() -> None:
    model = build_small(drop_path_rate=0.1).train()
    backend = CountingBackend()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    images = torch.randn(2, 3, 64, 64)
    for step in range(6):
        model.set_drop_path_rate(0.1 + 0.05 * step)
        compiled(images)
    assert backend.num_graphs <= 2


@pytest.mark.slow
def test_each_image_size_is_its_own_graph_and_the_batch_is_free() -> None:
    # Symbolic image sizes break Inductor; a symbolic batch does not.
    model = build_small().eval()
    backend = CountingBackend()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    for size in (64, 96):
        compiled(torch.randn(2, 3, size, size))
    assert backend.num_graphs == 2
    for batch in (3, 4, 5):
        compiled(torch.randn(batch, 3, 64, 64))
    assert backend.num_graphs == 3


@pytest.mark.slow
def test_a_network_may_be_compiled_for_many_image_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    network = build_small().eval()
    network.prune_intermediate_layers([0])  # one block is quick to trace
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: network)
    monkeypatch.setattr("hornet.model.build.get_classifier_names", lambda _: ())  # it has none
    model = build_model(ModelConfig(name="hornet_atto_gf", compile=True), num_classes=10, image_size=64, seed=0)
    for height in range(32, 32 + 9 * 4, 4):
        assert model(torch.randn(1, 3, height, 32)).shape == (1, 8, height // 4, 8)


@pytest.mark.slow
@pytest.mark.parametrize("resize", ["bilinear", "spectral"])
def test_a_filters_graph_for_any_size_is_right_at_all_of_them(resize: Resize) -> None:
    layer = GlobalLocalFilter(6, grid=(4, 3)).eval()
    layer.resize = resize
    nn.init.normal_(layer.complex_weight)
    any_size = torch.export.Dim.DYNAMIC
    # Traced at the size of its own filter, which the graph must not be tied to.
    program = torch.export.export(
        layer, (torch.randn(2, 4, 5, 6),), dynamic_shapes=({0: any_size, 1: any_size, 2: any_size},)
    )
    # By a length that is a symbol, which is what exporters to ONNX do not know.
    assert not [node for node in program.graph.nodes if node.target is torch.ops.aten.remainder.Scalar]
    for shape in ((1, 4, 5), (3, 4, 4), (2, 7, 9), (2, 14, 14), (1, 3, 12)):
        x = torch.randn(*shape, 6)
        torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.slow
def test_exported_graph_is_real_and_free_of_fft() -> None:
    model = fill_visibly(build_small()).eval()
    batch = torch.export.Dim("batch", max=64)
    program = torch.export.export(model, (torch.randn(2, 3, 64, 64),), dynamic_shapes=({0: batch},))
    for node in program.graph.nodes:
        assert "fft" not in str(node.target)
        assert "complex" not in str(node.target).replace("complex_weight", "")
        value = node.meta.get("val")
        assert not (isinstance(value, torch.Tensor) and value.is_complex()), node
    images = torch.randn(5, 3, 64, 64)
    torch.testing.assert_close(program.module()(images), model(images))


@pytest.mark.slow
def test_export_before_or_after_eager_use_leaves_plain_bases_in_the_cache() -> None:
    model, images = build_small().eval(), torch.randn(1, 3, 64, 64)
    fourier._bases.clear()
    torch.export.export(model, (images,))
    model(images)
    torch.export.export(model, (images,))
    assert fourier._bases
    assert all(type(basis) is torch.Tensor for basis in fourier._bases.values())
    assert model(images).isfinite().all()


OTHERS = {
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (8, 16, 32, 64)},
    "swin_tiny_patch4_window7_224": {"depths": (2, 1), "embed_dim": 24, "num_heads": (1, 2), "window_size": 4},
    "vit_tiny_patch16_224": {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3},
    "resnet18": {"layers": (1, 1, 1, 1), "channels": (8, 16, 32, 64), "zero_init_last": False},
    "swin_tiny_gnconv_gf": {
        "depths": (1, 1),
        "embed_dim": 16,
        "num_heads": (1, 2),
        "orders": (2, 3),
        "filter_stages": (1,),
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_a_run_compiles_other_networks_whole_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one graph, in training and in evaluation; differentiated as eager code is, by AOTAutograd without Inductor."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    eager, compiled = (
        build_model(
            ModelConfig(name=name, arguments=OTHERS[name], compile=is_compiled), num_classes=3, image_size=64, seed=0
        )
        for is_compiled in (False, True)
    )
    assert "forward" in vars(compiled), "compiled"
    compiled.load_state_dict(eager.state_dict())
    images = torch.randn(4, 3, 64, 64)
    gradients = [compute_gradients(model.train(), images) for model in (compiled, eager)]
    require_close(*gradients)
    buffers = [dict(model.named_buffers()) for model in (compiled, eager)]
    assert all(torch.allclose(buffer, buffers[1][key]) for key, buffer in buffers[0].items()), "running statistics"
    with torch.no_grad():
        assert torch.allclose(compiled.eval()(images), eager.eval()(images), atol=1e-5)

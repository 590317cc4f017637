"""The meter against what autograd really saved, and CUDA's own autocast."""

import pytest
import torch
from timm.loss import SoftTargetCrossEntropy
from torch._subclasses.fake_tensor import FakeTensorMode

from hornet.model.build import build_model
from hornet.model.config import ModelConfig
from hornet.planning.activations import Meter, build_on_meta, measure_activations, measure_pass

NUM_CLASSES, SIZE = 10, 4
BASES_BYTES = 200_000  # bases of the Fourier transforms: kept in a cache, but made for every layer of a fake network


def build(name, *, image_size, **settings):
    config = ModelConfig(name=name, drop_path_rate=0.2, **settings)
    return build_on_meta(config, num_classes=NUM_CLASSES, image_size=image_size)


def count_saved(name, *, image_size, **settings):
    """Bytes that autograd saved in a real forward pass, weights left out."""
    config = ModelConfig(name=name, drop_path_rate=0.2, **settings)
    model = build_model(config, num_classes=NUM_CLASSES, image_size=image_size, seed=0).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        images, targets = torch.randn(SIZE, 3, image_size, image_size), torch.full((SIZE, NUM_CLASSES), 0.1)
        SoftTargetCrossEntropy()(model(images).float(), targets)
    return sum(saved.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "activation_checkpointing"),
    [
        ("hornet_tiny_gf", False),
        ("hornet_atto_gf", True),
        ("hornet_atto_7x7", False),
        ("convnext_atto", True),
        ("swin_tiny_patch4_window7_224", False),
        ("vit_tiny_patch16_224", False),
        ("resnet18", False),
    ],
)
def test_what_is_kept_is_what_autograd_saves(name, activation_checkpointing):
    settings = {"image_size": 64, "activation_checkpointing": activation_checkpointing}
    counted = measure_pass(build(name, **settings), size=SIZE, image_size=64, precision="fp32").kept
    assert counted == pytest.approx(count_saved(name, **settings), rel=0.01, abs=BASES_BYTES)


def test_the_meter_follows_storages_until_they_are_freed():
    with Meter(besides=torch.nn.Identity()) as meter:
        kept = torch.ones(100)
        assert meter.live == 400
        view = kept.add(1).view(10, 10).add_(1)  # a second storage, no third
        assert (meter.live, meter.peak) == (800, 800)
        del kept, view
        assert (meter.live, meter.peak) == (0, 800)


@pytest.mark.slow
def test_autocast_keeps_what_it_keeps_on_cuda():
    """CUDA's own rules, as far as the forward pass: torch runs no backward on fake CUDA tensors without a GPU."""
    model = build("hornet_tiny_gf", image_size=64)
    counted = measure_pass(model, size=SIZE, image_size=64, precision="bf16").kept
    with FakeTensorMode(), torch.device("cuda"):
        for module in model.modules():
            for key, parameter in module.named_parameters(recurse=False):
                setattr(module, key, torch.nn.Parameter(torch.empty(parameter.shape)))
        with Meter(besides=model) as meter:
            loss = compute_under_cuda_autocast(model)
            assert counted == pytest.approx(meter.live, rel=1e-6)
            assert loss.device.type == "cuda"


def compute_under_cuda_autocast(model):
    """torch.autocast itself refuses where there is no GPU."""
    images, targets = torch.empty(SIZE, 3, 64, 64), torch.empty(SIZE, NUM_CLASSES)
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.autocast_increment_nesting()
    try:
        return SoftTargetCrossEntropy()(model(images).float(), targets)
    finally:
        torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)


@pytest.mark.slow
def test_the_straight_line_meets_other_sizes():
    config = ModelConfig(name="hornet_atto_gf")
    line = measure_activations(config, num_classes=NUM_CLASSES, image_size=64, precision="bf16")
    model = build_on_meta(config, num_classes=NUM_CLASSES, image_size=64)
    exact = measure_pass(model, size=256, image_size=64, precision="bf16").peak
    assert line.count(256) == pytest.approx(exact, rel=0.01)

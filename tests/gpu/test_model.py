"""Our network on a GPU against the literal one on the CPU."""

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

import hornet  # noqa: F401  registers the models
from benchmarks.literal import LiteralHorNet
from hornet.model.sizes import VARIANTS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
NAME = "hornet_atto_gf"


def compute(model: nn.Module, device: str, *, is_bf16: bool) -> dict[str, Tensor]:
    """Logits and gradients, on the CPU."""
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1)).to(device)
    with torch.autocast(device, dtype=torch.bfloat16, enabled=is_bf16):
        logits = model.to(device)(images)
    functional.cross_entropy(logits.float(), torch.tensor([1, 2], device=device)).backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name: tensor.detach().double().cpu() for name, tensor in {**found, "logits": logits}.items()}


@pytest.mark.parametrize(("is_bf16", "tolerance"), [(False, 1e-3), (True, 0.1)])
def test_logits_and_gradients_are_the_literal_ones(is_bf16, tolerance):
    torch.manual_seed(0)
    ours = timm.create_model(NAME, layer_scale_init=1.0)
    literal = LiteralHorNet(**VARIANTS[NAME])
    literal.load_state_dict(ours.state_dict())
    expected = compute(literal, "cpu", is_bf16=False)
    for name, tensor in compute(ours, "cuda", is_bf16=is_bf16).items():
        assert (tensor - expected[name]).norm() <= tolerance * expected[name].norm(), name

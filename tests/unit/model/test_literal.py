"""benchmarks/literal.py is another implementation of the same network: an oracle, and a fair denominator."""

import pytest
import timm
import torch
from torch.nn import functional

import hornet  # noqa: F401  registers the models
from benchmarks.literal import LiteralHorNet
from hornet.model.sizes import VARIANTS
from tests.golden import fill
from tests.unit.model.test_golden import REFERENCE, load_reference_arrays


@pytest.mark.slow
@pytest.mark.parametrize("case", ["hornet_tiny_gf@224", "hornet_tiny_gf@160", "hornet_tiny_7x7@200"])
def test_it_agrees_with_the_original(case):
    name, size = case.split("@")
    expected = REFERENCE[case]
    model = LiteralHorNet(**VARIANTS[name], num_classes=expected["num_classes"]).eval()
    model.load_state_dict(fill.fill_state_dict(model.state_dict()))
    with torch.no_grad():
        logits = model(fill.test_image(expected["batch"], int(size)))
    reference = torch.from_numpy(load_reference_arrays()[f"{case}/logits"])
    assert (logits[:, : reference.shape[1]] - reference).abs().max() <= 1e-5 * reference.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 96, (64, 96)])
@pytest.mark.parametrize("kind", ["gf", "7x7"])
def test_it_and_ours_agree_on_loss_and_every_gradient(kind, size):
    name = f"hornet_atto_{kind}"
    models = [timm.create_model(name, img_size=64), LiteralHorNet(**VARIANTS[name], img_size=64)]
    weights = fill.fill_state_dict(models[0].state_dict())
    height, width = (size, size) if isinstance(size, int) else size
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    losses = []
    for model in models:
        model.double().load_state_dict(weights)
        losses.append(functional.cross_entropy(model(images.double()), torch.tensor([3, 8])))
        losses[-1].backward()
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    theirs = dict(models[1].named_parameters())
    for name, parameter in models[0].named_parameters():
        apart = (parameter.grad - theirs[name].grad).norm() / theirs[name].grad.norm()
        assert apart < 1e-5, name  # its FFT is float32, as the original's

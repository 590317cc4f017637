"""A HorNet small enough for a unit test, built through timm as a user would."""

import timm
import torch
from torch import nn

import hornet  # noqa: F401 (registers the models)
from hornet.model.hornet import HorNet


def build_small(**arguments: object) -> HorNet:
    """Two of the four stages have global filters, shaped for 64 pixels; five blocks."""
    model = timm.create_model(
        "hornet_atto_gf", **{"width": 8, "depths": (1, 1, 2, 1), "img_size": 64, "num_classes": 10, **arguments}
    )
    assert isinstance(model, HorNet)
    return model


def fill_visibly(model: HorNet) -> HorNet:
    """Weights and layer scales so large that every parameter shows in the output."""
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, mean=1.0 if "gamma" in name or "norm" in name else 0.0, std=0.2)
    return model


def compute_gradients(model: HorNet, images: torch.Tensor, run: object = None) -> dict[str, torch.Tensor]:
    """Gradients of the mean square of `run(images)`, `run` being the model itself or a compiled form of it."""
    model.zero_grad()
    run = model if run is None else run
    run(images).square().mean().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

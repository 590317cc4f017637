"""Agreement with the original implementation's outputs and gradients (tests/golden)."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional

import hornet  # noqa: F401 (registers the models)
from tests.golden import fill

GOLDEN = Path(__file__).parents[2] / "golden"
REFERENCE: dict[str, dict[str, Any]] = json.loads((GOLDEN / "hornet_reference.json").read_text())
LAYOUT: dict[str, dict[str, list[int]]] = json.loads((GOLDEN / "layout.json").read_text())


@lru_cache
def load_reference_arrays() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "hornet_reference.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def original_checkpoint(tmp_path_factory: pytest.TempPathFactory):
    """Returns a function: model name -> path of a .pth as the original saves it, made from its list of shapes alone."""
    folder = tmp_path_factory.mktemp("original")

    def write(name: str) -> Path:
        path = folder / f"{name}.pth"
        if not path.exists():
            shapes = LAYOUT[f"{name}:1000"]
            state_dict = {key: fill.fill_tensor(key, tuple(shape)) for key, shape in shapes.items()}
            torch.save({"model": state_dict}, path)
        return path

    return write


@pytest.mark.parametrize("case", sorted(REFERENCE))
def test_logits_features_loss_and_every_gradient_agree_with_the_original(case: str, original_checkpoint) -> None:
    name, size = case.split("@")
    expected = REFERENCE[case]
    model = timm.create_model(name, num_classes=expected["num_classes"], checkpoint_path=original_checkpoint(name))
    model.eval()

    images = fill.test_image(expected["batch"], int(size))
    features = model.forward_head(model.forward_features(images), pre_logits=True)
    logits = model.get_classifier()(features)
    targets = torch.arange(expected["batch"]) * 7 % expected["num_classes"]
    loss = functional.cross_entropy(logits, targets)
    loss.backward()

    arrays = load_reference_arrays()
    for kind, ours in (("logits", logits), ("features", features)):
        reference = arrays[f"{case}/{kind}"]
        difference = np.abs(ours.detach().numpy()[:, : reference.shape[1]] - reference).max()
        assert difference <= 1e-5 * np.abs(reference).max(), kind
        assert ours.norm().item() == pytest.approx(expected[f"{kind}_norm"], rel=1e-5)
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-5)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected["num_params"]
    norms = {key: parameter.grad.double().norm().item() for key, parameter in model.named_parameters()}
    # The issue allows 1e-3; what we reach is 1e-6, and a slip of 1e-4 would be a different network.
    assert norms == pytest.approx(expected["grad_norms"], rel=1e-4)


@pytest.mark.parametrize("key", sorted(LAYOUT))
def test_names_and_shapes_of_the_state_dict_are_the_original_ones(key: str) -> None:
    name, num_classes = key.split(":")
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=int(num_classes))
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == LAYOUT[key]

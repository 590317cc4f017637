"""Weights through timm's `checkpoint_path=`, in every layout it may be given."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hornet.model.hornet import HorNet
from tests.golden.fill import fill_state_dict
from tests.unit.model.small_model import build_small


def build_filled() -> HorNet:
    model = build_small().eval()
    model.load_state_dict(fill_state_dict(model.state_dict()))
    return model


@pytest.mark.parametrize("layout", ["model", "state_dict", "training", "bare", "safetensors"])
def test_checkpoint_path_takes_original_files_and_ours(layout: str, tmp_path: Path) -> None:
    source = build_filled()
    weights = source.state_dict()
    path = tmp_path / ("weights.safetensors" if layout == "safetensors" else "weights.pth")
    if layout == "safetensors":
        save_file(weights, path)
    else:
        content = {
            "model": {"model": weights},
            "state_dict": {"state_dict": weights},
            # What the original's training script saves.
            "training": {"model": weights, "optimizer": {}, "epoch": 3, "scaler": {}, "args": Namespace(lr=1.0)},
            "bare": weights,
        }[layout]
        torch.save(content, path)
    loaded = build_small(checkpoint_path=str(path)).eval()
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded(images), source(images))


def test_filters_of_another_grid_are_not_taken_silently(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"model": build_filled().state_dict()}, path)
    with pytest.raises(RuntimeError, match="complex_weight"):
        build_small(img_size=96, checkpoint_path=str(path))

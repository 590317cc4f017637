"""Weights through timm's `checkpoint_path=`, in every layout it may be given."""

from argparse import Namespace
from pathlib import Path

import pytest
import timm
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


@pytest.mark.parametrize("route", ["checkpoint_path", "pretrained", "load_state_dict"])
def test_weights_of_another_image_size_are_read_through_every_door_and_it_is_said(route: str, tmp_path: Path) -> None:
    source = build_filled()
    path = tmp_path / "weights.pth"
    torch.save({"model": source.state_dict()}, path)
    weights = source.state_dict()
    with pytest.warns(UserWarning, match=r"global filters of 4 x 3 were resampled to 6 x 4: .*\(img_size\)"):  # noqa: PT031
        if route == "checkpoint_path":
            model = build_small(img_size=96, checkpoint_path=str(path))
        elif route == "pretrained":
            overlay = {"file": str(path), "num_classes": 10}
            model = build_small(img_size=96, pretrained=True, pretrained_cfg_overlay=overlay)
        else:
            model = build_small(img_size=96)
            model.load_state_dict(weights)
    # At its new size the network computes what the old one does there, which resizes its filters on the fly.
    assert model.stages[2][0].gnconv.dwconv.complex_weight.shape[1:3] == (6, 4)
    images = torch.randn(1, 3, 96, 96)
    assert torch.equal(model.eval()(images), source(images))
    # What was given is left alone.
    assert all(torch.equal(weights[name], tensor) for name, tensor in source.state_dict().items())


def test_weights_at_224_pixels_go_into_the_network_for_384(tmp_path: Path) -> None:
    source = timm.create_model("hornet_base_gf", width=16, depths=(1, 1, 1, 1), num_classes=3).eval()
    path = tmp_path / "weights.safetensors"
    save_file(source.state_dict(), path)
    with pytest.warns(UserWarning, match="global filters of 14 x 8 were resampled to 24 x 13"):
        model = timm.create_model(
            "hornet_base_gf_img384", width=16, depths=(1, 1, 1, 1), num_classes=3, checkpoint_path=str(path)
        ).eval()
    images = torch.randn(1, 3, 384, 384)
    assert torch.equal(model(images), source(images))


def test_weights_of_another_width_are_refused_by_name() -> None:
    with pytest.raises(RuntimeError, match="complex_weight"):
        build_small(img_size=96, width=16).load_state_dict(build_filled().state_dict())
    with pytest.raises(RuntimeError, match="complex_weight"):
        build_small().load_state_dict({"stages.2.0.gnconv.dwconv.complex_weight": torch.zeros(12, 4, 3)}, strict=False)


@pytest.mark.filterwarnings("error")
def test_weights_of_the_same_image_size_are_read_without_a_word() -> None:
    build_small().load_state_dict(build_filled().state_dict())

"""Networks as ONNX files, run by ONNX Runtime: what docs/models.md shows."""

from pathlib import Path

import onnxruntime
import pytest
import timm
import torch

from tests.unit.model.small_model import build_small, fill_visibly


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_file_for_any_batch_and_size_is_right_at_all_of_them(tmp_path: Path) -> None:
    model = fill_visibly(build_small(depths=(1, 1, 1, 1), filter_stages=(3,))).eval()  # 7x7 in the three before
    any_size = torch.export.Dim.DYNAMIC
    torch.onnx.export(
        model,
        (torch.randn(2, 3, 64, 64),),
        tmp_path / "network.onnx",
        dynamo=True,
        dynamic_shapes=({0: any_size, 2: any_size, 3: any_size},),
    )
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    for shape in ((1, 3, 64, 64), (3, 3, 97, 131), (2, 3, 160, 224), (1, 3, 32, 200)):
        images = torch.randn(*shape)
        found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])
        expected = model(images)
        assert (found - expected).norm() / expected.norm() < 1e-5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("hornet_isotropic_deit_small_gf", {"width": 16, "depths": (1,), "orders": (2,), "img_size": 64}),
        ("convnext_tiny_gnconv_7x7", {"depths": (1, 1, 1, 1), "dims": (8, 16, 32, 64)}),
    ],
)
def test_gnconv_in_other_shapes_and_networks_is_exported_too(name: str, arguments: dict, tmp_path: Path) -> None:
    model = timm.create_model(name, num_classes=10, **arguments).eval()
    for parameter_name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("gamma" in parameter_name or "norm" in parameter_name), std=0.2)
    any_batch = torch.export.Dim.DYNAMIC
    torch.onnx.export(
        model, (torch.randn(2, 3, 64, 64),), tmp_path / "network.onnx", dynamo=True, dynamic_shapes=({0: any_batch},)
    )
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    images = torch.randn(3, 3, 64, 64)
    found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])
    expected = model(images)
    assert (found - expected).norm() / expected.norm() < 1e-5

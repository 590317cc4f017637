"""Weights for the world outside, read by others: timm in a fresh process, the original's layout, ONNX Runtime."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import hornet  # noqa: F401  registers the models
from hornet.cli.export import read_config
from hornet.config import ConfigError
from hornet.errors import UserError
from hornet.stages import export
from hornet.stages.card import describe_results
from hornet.stages.config import ExportConfig
from hornet.stages.export_formats import WRITERS, Outgoing, compare
from hornet.stages.pretrained import read_pretrained
from tests.unit.model.small_model import fill_visibly

CONVNEXT = {"depths": [1, 1, 1, 1], "dims": [8, 16, 32, 64]}
VIT = {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
SWIN = {"depths": [1, 1], "embed_dim": 24, "num_heads": [1, 2], "window_size": 4}
READ = """
import json, sys, timm, torch, hornet
model = timm.create_model(f"local-dir:{sys.argv[1]}", pretrained=True).eval()
data = timm.data.resolve_data_config(model=model)
with torch.no_grad():
    logits = model(torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32))
print(json.dumps({"logits": logits.tolist(), "labels": model.pretrained_cfg["label_names"],
                  **{key: data[key] for key in ("mean", "crop_pct", "crop_mode", "interpolation", "input_size")}}))
"""


def save(folder: Path, name: str = "hornet_atto_gf", *, fill: bool = True, **arguments: Any) -> torch.nn.Module:
    """Write x.pth of a network of three classes for images of 32 pixels, and return it."""
    torch.manual_seed(0)
    size = None if name.startswith("convnext") else 32  # which takes any
    model = timm.create_model(name, num_classes=3, img_size=size, **arguments).eval()
    if fill:
        fill_visibly(model)
    else:
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    torch.save({"model": model.state_dict()}, folder / "x.pth")
    return model


def run(folder: Path, *overrides: str, model: str = "hornet_atto_gf") -> dict[str, str]:
    (folder / "labels.txt").write_text("cat\ndog\nnewt\n")
    names = [f"model={model}", f"label_space={folder / 'labels.txt'}", "image_size=32"]
    return export.export_weights(read_config(folder / "x.pth", folder / "out", overrides=[*names, *overrides]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [("hornet_atto_gf", {}), ("hornet_atto_7x7", {}), ("swin_tiny_patch4_window7_224", SWIN)],
)
def test_timm_loads_the_folder_in_another_process(tmp_path: Path, name: str, arguments: dict[str, Any]) -> None:
    model = save(tmp_path, name, fill=name.startswith("hornet"), **arguments)
    given = [f"arguments={json.dumps(arguments)}"] if arguments else []
    written = run(tmp_path, "crop_fraction=null", "interpolation=bilinear", *given, model=name)
    assert set(written) == {"model.safetensors", "config.json", f"{name}.pth", "README.md"}
    command = [sys.executable, "-W", "ignore", "-c", READ, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    read = json.loads(done.stdout)
    with torch.no_grad():
        expected = model(torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32))
    assert torch.equal(torch.tensor(read["logits"]), expected)
    assert read["labels"] == ["cat", "dog", "newt"]
    assert (read["crop_pct"], read["crop_mode"], read["interpolation"]) == (1.0, "squash", "bilinear")
    assert (read["mean"], read["input_size"]) == ([0.485, 0.456, 0.406], [3, 32, 32])


def test_the_size_of_filters_goes_out_of_networks_that_hand_it_on(tmp_path: Path) -> None:
    arguments = {"depths": [1, 1], "embed_dim": 16, "num_heads": [1, 1], "orders": [2, 3], "filter_stages": [1]}
    model = save(tmp_path, "swin_tiny_gnconv_gf", fill=False, **arguments)
    run(tmp_path, "formats=[timm]", f"arguments={json.dumps(arguments)}", model="swin_tiny_gnconv_gf")
    read = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    for name, tensor in model.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor), name


@pytest.mark.parametrize("name", ["hornet_atto_gf", "convnext_atto"])
def test_the_folder_starts_networks_of_other_classes_channels_and_sizes(tmp_path: Path, name: str) -> None:
    arguments = CONVNEXT if name.startswith("convnext") else {"depths": [1, 1, 1, 1]}
    model = save(tmp_path, name, fill=name.startswith("hornet"), **arguments)
    run(tmp_path, "formats=[timm]", f"arguments={json.dumps(arguments)}", model=name)

    def create(**changes: Any) -> torch.nn.Module:
        return timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, **changes).eval()

    images = torch.rand(2, 3, 64, 64)
    assert create(num_classes=7)(images).shape == (2, 7)
    grey = images[:, :1]
    expected = model.forward_features(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(create(in_chans=1).forward_features(grey), expected, rtol=1e-4, atol=1e-4)
    maps = create(features_only=True, out_indices=(1, 2))(images)
    for found, wanted in zip(maps, model.forward_intermediates(images, [1, 2], intermediates_only=True), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.slow
def test_transformers_reads_the_folder_too(tmp_path: Path) -> None:
    import transformers  # seconds

    model = save(tmp_path)
    run(tmp_path, "formats=[timm]")
    read = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(read(images).logits, model(images))
    assert list(read.config.id2label.values()) == ["cat", "dog", "newt"]


def test_the_originals_layout_goes_back_in(tmp_path: Path) -> None:
    model = save(tmp_path)
    run(tmp_path, "formats=[original]")
    path = tmp_path / "out/hornet_atto_gf.pth"
    assert torch.load(path, weights_only=True).keys() == {"model"}
    found = read_pretrained(path, weights="raw", label_space=None).state_dict
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in model.state_dict().items())
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "arguments"),
    [  # each block more is another second of the exporter's
        ("hornet_atto_gf", {"depths": [1, 1, 1, 1]}),
        ("hornet_atto_7x7", {"depths": [1, 1, 1, 1]}),
        ("convnext_atto", CONVNEXT),
        ("vit_tiny_patch16_224", VIT),
    ],
)
def test_onnx_and_exported_programs_are_compared_before_they_count(
    tmp_path: Path, name: str, arguments: dict[str, Any]
) -> None:
    save(tmp_path, name, fill=name.startswith("hornet"), **arguments)
    written = run(tmp_path, "formats=[onnx,torch_export]", f"arguments={json.dumps(arguments)}", model=name)
    assert "any batch of 32 x 32 pixels" in written["model.onnx"]
    assert "from PyTorch in onnxruntime" in written["model.onnx"]
    assert "from PyTorch" in written["model.pt2"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.onnx", "model.pt2", "README.md"}


class OfTwoImages(torch.nn.Module):
    """A network whose code knows the batch that it was tried with."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3 * 32 * 32, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(images.reshape(2, -1))


def make_outgoing(model: torch.nn.Module, folder: Path) -> Outgoing:
    return Outgoing(model.eval(), folder=folder, described={"pretrained_cfg": {"input_size": [3, 32, 32]}})


@pytest.mark.slow
def test_what_cannot_take_any_batch_is_refused(tmp_path: Path) -> None:
    outgoing = make_outgoing(OfTwoImages(), tmp_path)
    for kind in ("onnx", "torch_export", "aot_inductor"):
        with pytest.raises(
            UserError,
            match=r"formats: OfTwoImages cannot be traced for any batch of 32 x 32 pixels, so there can be no onnx, "
            r"torch_export or aot_inductor of it; leave them out \(Constraints violated",
        ):
            WRITERS[kind](outgoing)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_package_computes_what_the_network_does(tmp_path: Path) -> None:
    """For batches of other sizes than it was traced with, and read by torch alone."""
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 4, 4), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.Linear(256, 3)
    )
    (what,) = WRITERS["aot_inductor"](make_outgoing(model, tmp_path)).values()
    assert what.startswith("torch._inductor.aoti_load_package, for CPUs like this one, any batch of 32 x 32 pixels; ")
    package = torch._inductor.aoti_load_package(str(tmp_path / "model.aoti.pt2"))
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(package(images), model(images), atol=1e-5)


def test_a_package_needs_a_compiler(tmp_path: Path) -> None:
    with (
        torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(UserError, match=r"formats: aot_inductor needs a C\+\+ compiler; install g\+\+, or name another"),
    ):
        WRITERS["aot_inductor"](make_outgoing(torch.nn.Flatten(), tmp_path))


def test_a_file_that_computes_something_else_is_not_written(tmp_path: Path) -> None:
    model = save(tmp_path)
    with pytest.raises(UserError, match=r"x\.onnx: computes other logits than the network \(1\.0e\+00 of"):
        compare(model, lambda images: torch.zeros(3, 3), 32, name="x.onnx")
    with pytest.raises(UserError, match="computes other logits"):
        compare(model, lambda images: torch.full((3, 3), torch.nan), 32, name="x.onnx")


def test_nothing_is_left_of_an_export_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path)

    def fail(*_: object) -> dict[str, str]:
        raise OSError("No space left on device")

    monkeypatch.setattr(export, "WRITERS", {**export.WRITERS, "original": fail})
    with pytest.raises(OSError, match="No space"):
        run(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.txt", "x.pth"]


def test_an_unknown_label_space_takes_the_heads_rows(tmp_path: Path) -> None:
    save(tmp_path)
    config = read_config(
        tmp_path / "x.pth", tmp_path / "out", overrides=["model=hornet_atto_gf", "image_size=32", "formats=[timm]"]
    )
    export.export_weights(config)
    described = json.loads((tmp_path / "out/config.json").read_text())
    assert described["num_classes"] == 3
    assert "label_names" not in described
    card = (tmp_path / "out/README.md").read_text()
    assert "3 classes of an unknown label space" in card
    assert "license" not in card, "nobody said one"


def test_a_network_of_ones_own_goes_out_with_the_module_that_registers_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[3] / "examples")
    module = importlib.import_module("own_network")
    model = module.OwnNetwork(num_classes=3, width=8).eval()
    torch.save(model.state_dict(), tmp_path / "x.pth")
    run(tmp_path, "formats=[timm]", "module=own_network", "arguments={width: 8}", model="own_network")
    described = json.loads((tmp_path / "out/config.json").read_text())
    assert (described["num_classes"], described["num_features"]) == (3, 8)
    assert described["pretrained_cfg"]["classifier"] == "head"
    [program] = re.findall(r"^```python\n(.*?)^```", (tmp_path / "out/README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert "import own_network" in program
    exec(program.replace("local-dir:FOLDER", f"local-dir:{tmp_path / 'out'}"), names := {})
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(names["model"](images), model(images))
    monkeypatch.setattr(module, "build_model_with_cfg", lambda kind, *_, **__: kind(3, width=8))
    (tmp_path / "out").rename(tmp_path / "before")
    with pytest.raises(UserError, match=r"^formats: timm does not read own_network back \(its weights are not those"):
        run(tmp_path, "formats=[timm]", "module=own_network", "arguments={width: 8}", model="own_network")


def test_refusals(tmp_path: Path) -> None:
    model = save(tmp_path)
    run(tmp_path, "formats=[original]")
    with pytest.raises(UserError, match="out: is there already; remove it, or name another folder"):
        run(tmp_path)
    with pytest.raises(ConfigError, match=r"formats.*timm, original, onnx"):
        run(tmp_path, "formats=[tflite]")
    with pytest.raises(ConfigError, match="formats: is empty"):
        run(tmp_path, "formats=[]")
    with pytest.raises(UserError, match="model: is missing"):
        export.export_weights(read_config(tmp_path / "x.pth", tmp_path / "other", overrides=["image_size=32"]))
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head")}
    torch.save(state, tmp_path / "x.pth")
    (tmp_path / "out").rename(tmp_path / "before")
    with pytest.raises(UserError, match=r"x\.pth: holds no head, so it cannot classify"):
        run(tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        read_config(tmp_path / "no", tmp_path / "out", overrides=[])


@pytest.mark.parametrize(("loss", "told"), [(1.25, "loss 1.2500"), (None, "loss not finite")])
def test_the_card_says_what_the_run_reached(tmp_path: Path, loss: float | None, told: str) -> None:
    """evaluations.jsonl has shares in percent, and null for a loss that was not finite."""
    row = {"step": 40, "weights": "raw", "top1": 85.07, "top5": 99.437, "loss": loss, "num_images": 355}
    (tmp_path / "config.yaml").touch()
    (tmp_path / "evaluations.jsonl").write_text(json.dumps({**row, "num_bad_images": 0}) + "\n")
    config = ExportConfig(source=tmp_path, output=tmp_path / "out", image_size=32)
    text = "\n".join(describe_results(config))
    assert f"After 40 steps: top-1 85.07 %, top-5 99.44 %, {told} on 355 images." in text

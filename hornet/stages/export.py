"""Weights for the world outside: folders that timm and its hub load, the original's file, ONNX, torch.export.

A folder appears whole or not at all. What another program is to compute with the files is computed here first, with
that program where it is installed, and compared with the network.
"""

from __future__ import annotations

import inspect
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hornet import __version__
from hornet.durable import sync_files, write_text
from hornet.errors import UserError
from hornet.model.build import build_model, get_classifier_names
from hornet.model.config import ModelConfig
from hornet.stages.card import make_card
from hornet.stages.config import ExportConfig, ExportFormat
from hornet.stages.pretrained import Pretrained, adapt, choose_network, load_weights, read_pretrained

TOLERANCE = 1e-4
"""Largest difference of logits, relative to the largest of them, that a file may have from the network."""


def export_weights(config: ExportConfig) -> dict[str, str]:
    """Write the files into `config.output`; return what each is, by its name.

    Raises UserError if the folder is there already, the weights do not fit, or a file does not compute what they do.
    """
    if config.output.exists():
        raise UserError(f"{config.output}: is there already; remove it, or name another folder")
    pretrained = read_pretrained(config.source, weights=config.weights, label_space=config.label_space)
    model_config = choose_network(config, pretrained.description)
    model = build_network(config, pretrained, model_config)
    described = describe(config, pretrained, model, model_config)
    config.output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=config.output.parent, prefix=f".{config.output.name}."))
    try:
        written: dict[str, str] = {}
        for kind in config.formats:
            written |= WRITERS[kind](model, folder, described)
        write_text(folder / "README.md", make_card(config, pretrained, described, written))
        sync_files(folder.iterdir())
        folder.chmod(0o755)  # mkdtemp's is for its owner alone
        folder.rename(config.output)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return written | {"README.md": "model card"}


def build_network(config: ExportConfig, pretrained: Pretrained, model_config: ModelConfig) -> nn.Module:
    """Return the network with its weights, in eval mode."""

    def build(num_classes: int) -> nn.Module:
        size = config.image_size
        return build_model(model_config, num_classes=num_classes, image_size=size, seed=0, size_key="image_size").eval()

    model = build(1 if pretrained.label_space is None else len(pretrained.label_space))
    head = adapt(pretrained, model).state_dict.get(get_classifier_names(model)[0])
    if head is None or head.dim() == 0:
        raise UserError(f"{pretrained.source}: holds no head, so it cannot classify; finetune it first")
    if pretrained.label_space is None:  # as many classes as it has rows
        model = build(len(head))
    load_weights(pretrained.state_dict, model, source=pretrained.source)
    return model


def describe(
    config: ExportConfig, pretrained: Pretrained, model: nn.Module, model_config: ModelConfig
) -> dict[str, Any]:
    """Return what timm's config.json says of the weights, and how images are brought to them."""
    known = pretrained.description
    arguments = dict(model_config.arguments or {})
    if "img_size" in inspect.signature(type(model).__init__).parameters:
        arguments["img_size"] = config.image_size
    space = pretrained.label_space
    return {
        "architecture": model_config.name,
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        **({} if space is None else {"label_names": list(space.classes)}),
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, config.image_size, config.image_size],
            "interpolation": config.interpolation,
            "crop_pct": 1.0 if config.crop_fraction is None else config.crop_fraction,
            "crop_mode": "squash" if config.crop_fraction is None else "center",
            "mean": list(known.get("mean", config.mean)),
            "std": list(known.get("std", config.std)),
            "num_classes": model.num_classes,
            "classifier": get_classifier_names(model)[0].rpartition(".")[0],
            "license": config.license,
        },
        "made_by": f"hornet {__version__}",
    }


def _write_timm(model: nn.Module, folder: Path, described: Mapping[str, Any]) -> dict[str, str]:
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")
    return {
        "model.safetensors": 'the weights: timm.create_model("local-dir:FOLDER", pretrained=True)',
        "config.json": "the network, its preprocessing and its labels, as timm's hub keeps them",
    }


def _write_original(model: nn.Module, folder: Path, described: Mapping[str, Any]) -> dict[str, str]:
    torch.save({"model": model.state_dict()}, folder / f"{described['architecture']}.pth")
    return {f"{described['architecture']}.pth": 'the original layout: {"model": state dict}'}


def _write_onnx(model: nn.Module, folder: Path, described: Mapping[str, Any]) -> dict[str, str]:
    path, size = folder / "model.onnx", described["pretrained_cfg"]["input_size"][-1]
    try:
        torch.onnx.export(
            model,
            (torch.randn(2, 3, size, size),),
            path,
            input_names=["images"],
            output_names=["logits"],
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            external_data=False,
            verbose=False,
        )
    except ModuleNotFoundError as error:
        raise UserError(f"formats: onnx needs {error.name}; run `pip install '.[export]'` in the repository") from error
    return {"model.onnx": f"ONNX for any batch of {size} x {size} pixels; {_compare_onnx(model, path, size)}"}


def _compare_onnx(model: nn.Module, path: Path, size: int) -> str:
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return "not compared with the network, for which onnxruntime is needed"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def compute(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    return f"{_compare(model, compute, size, path=path):.1e} from PyTorch in onnxruntime"


def _write_program(model: nn.Module, folder: Path, described: Mapping[str, Any]) -> dict[str, str]:
    path, size = folder / "model.pt2", described["pretrained_cfg"]["input_size"][-1]
    program = torch.export.export(
        model, (torch.randn(2, 3, size, size),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    torch.export.save(program, path)
    difference = _compare(model, torch.export.load(path).module(), size, path=path)
    return {"model.pt2": f"torch.export.load, any batch of {size} x {size} pixels; {difference:.1e} from PyTorch"}


@torch.no_grad()
def _compare(model: nn.Module, compute: Callable[[Tensor], Tensor], size: int, *, path: Path) -> float:
    """Return the largest difference on three images, relative; raises UserError if it is no rounding."""
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    expected = model(images)
    difference = float((compute(images) - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    if not difference <= TOLERANCE:
        raise UserError(
            f"{path.name}: computes other logits than the network ({difference:.1e} of the largest); it is not written"
        )
    return difference


WRITERS: Mapping[ExportFormat, Callable[[nn.Module, Path, Mapping[str, Any]], dict[str, str]]] = {
    "timm": _write_timm,
    "original": _write_original,
    "onnx": _write_onnx,
    "torch_export": _write_program,
}

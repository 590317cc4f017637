"""What weights are written as: timm's folder, the original's .pth, ONNX, torch.export's program, AOTInductor's package.

What another program is to compute with a file is computed here first, with that program where it is installed, and
compared with the network.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import ExportedProgram

from hornet.errors import UserError
from hornet.stages.config import ExportFormat

TOLERANCE = 1e-4
"""Largest difference of logits, relative to the largest of them, that a file may have from the network."""
ONNX, PROGRAM, PACKAGE = "model.onnx", "model.pt2", "model.aoti.pt2"

Compute = Callable[[Tensor], Tensor]
"""Images (B, 3, H, W) -> logits (B, classes)."""


class Outgoing:
    """A network, the folder that its files go to, and its program, which several formats are made of."""

    def __init__(self, model: nn.Module, *, folder: Path, described: Mapping[str, Any]) -> None:
        self.model, self.folder, self.described = model, folder, described
        self.image_size: int = described["pretrained_cfg"]["input_size"][-1]

    @cached_property
    def program(self) -> ExportedProgram:
        """The network traced for any batch; raises UserError if it cannot be."""
        images = torch.randn(2, 3, self.image_size, self.image_size)
        try:
            return torch.export.export(self.model, (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        except Exception as error:  # what tracing anyone's network may raise has no type in common
            raise UserError(
                f"formats: {type(self.model).__name__} cannot be traced for any batch of {self.image_size} x "
                f"{self.image_size} pixels, so there can be no onnx, torch_export or aot_inductor of it; leave them "
                f"out ({_take_first_line(error)})"
            ) from error

    def add(self, name: str, what: str, *, program: str = "") -> dict[str, str]:
        """Compare the file `name` with the network; return what it is."""
        difference = compare(self.model, LOADERS[name](self.folder / name), self.image_size, name=name)
        size = f"{self.image_size} x {self.image_size}"
        return {name: f"{what} any batch of {size} pixels; {difference:.1e} from PyTorch{program}"}


def _take_first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@torch.no_grad()
def compare(model: nn.Module, compute: Compute, image_size: int, *, name: str) -> float:
    """Return the largest difference on three images, relative; raises UserError if it is no rounding."""
    images = torch.randn(3, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    expected = model(images)
    difference = float((compute(images) - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    if not difference <= TOLERANCE:
        raise UserError(
            f"{name}: computes other logits than the network ({difference:.1e} of the largest); it is not written"
        )
    return difference


def _write_timm(outgoing: Outgoing) -> dict[str, str]:
    state = {name: tensor.contiguous() for name, tensor in outgoing.model.state_dict().items()}
    save_file(state, outgoing.folder / "model.safetensors")
    (outgoing.folder / "config.json").write_text(json.dumps(outgoing.described, indent=2) + "\n")
    _require_readable(outgoing.folder, state, name=outgoing.described["architecture"])
    return {
        "model.safetensors": 'the weights: timm.create_model("local-dir:FOLDER", pretrained=True)',
        "config.json": "the network, its preprocessing and its labels, as timm's hub keeps them",
    }


def _require_readable(folder: Path, state: Mapping[str, Tensor], *, name: str) -> None:
    """Raise UserError unless timm makes of the folder a network with these weights: anyone's function builds it."""
    try:
        found = timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict()
        problem = "its weights are not those of the file"
        is_same = found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)
    except Exception as error:  # what that function may raise has no type in common
        is_same, problem = False, _take_first_line(error)
    if not is_same:
        raise UserError(
            f"formats: timm does not read {name} back ({problem}); the function that is registered under this name has "
            "to call timm's build_model_with_cfg (examples/own_network.py); or leave timm out"
        )


def _write_original(outgoing: Outgoing) -> dict[str, str]:
    name = f"{outgoing.described['architecture']}.pth"
    torch.save({"model": outgoing.model.state_dict()}, outgoing.folder / name)
    return {name: 'the original layout: {"model": state dict}'}


def _write_onnx(outgoing: Outgoing) -> dict[str, str]:
    # Torch's own exporter does what torch warns of.
    warnings.filterwarnings("ignore", category=FutureWarning, message=r"`isinstance\(treespec, LeafSpec\)`")
    try:
        torch.onnx.export(
            outgoing.program,
            (),
            outgoing.folder / ONNX,
            input_names=["images"],
            output_names=["logits"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    except ModuleNotFoundError as error:
        raise UserError(f"formats: onnx needs {error.name}; run `pip install '.[export]'` in the repository") from error
    except torch.onnx.OnnxExporterError as error:
        raise UserError(
            f"formats: {type(outgoing.model).__name__} cannot be written as onnx; leave it out "
            f"({_take_first_line(error)})"
        ) from error
    try:
        return outgoing.add(ONNX, "ONNX for", program=" in onnxruntime")
    except ModuleNotFoundError:
        return {ONNX: "ONNX for any batch; not compared with the network, for which onnxruntime is needed"}


def _write_program(outgoing: Outgoing) -> dict[str, str]:
    torch.export.save(outgoing.program, outgoing.folder / PROGRAM)
    return outgoing.add(PROGRAM, "torch.export.load,")


def _write_package(outgoing: Outgoing) -> dict[str, str]:
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise UserError(
            "formats: aot_inductor needs a C++ compiler; install g++, or name another in the environment's CXX"
        ) from error
    with torch.no_grad():
        aoti_compile_and_package(outgoing.program, package_path=str(outgoing.folder / PACKAGE))
    return outgoing.add(PACKAGE, "torch._inductor.aoti_load_package, for CPUs like this one,")


def load_onnx(path: Path) -> Compute:
    """Load an ONNX file into ONNX Runtime, with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def load_program(path: Path) -> Compute:
    """Load a program of torch.export."""
    module: Compute = torch.export.load(path).module()
    return module


def load_package(path: Path) -> Compute:
    """Load a package of AOTInductor."""
    from torch._inductor import aoti_load_package

    package: Compute = aoti_load_package(str(path))
    return package


WRITERS: Mapping[ExportFormat, Callable[[Outgoing], dict[str, str]]] = {
    "timm": _write_timm,
    "original": _write_original,
    "onnx": _write_onnx,
    "torch_export": _write_program,
    "aot_inductor": _write_package,
}
LOADERS: Mapping[str, Callable[[Path], Compute]] = {ONNX: load_onnx, PROGRAM: load_program, PACKAGE: load_package}
"""How each file that computes by itself is loaded."""

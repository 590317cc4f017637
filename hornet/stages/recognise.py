"""Which HorNet a downloaded weight file is of: by the names and shapes of what it holds, not by its own name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import Tensor

import hornet  # noqa: F401  registers the models
from hornet.errors import UserError
from hornet.model.sizes import NATIVE_SIZE, VARIANTS
from hornet.shards.imagenet import make_layout, name_by_size
from hornet.shards.label_space import LabelSpace
from hornet.stages.pretrained import list_first, read_pretrained
from hornet.training.config import Weights

FILTER = re.compile(r"stages\.2\.\d+\.gnconv\.dwconv\.complex_weight")
FILTER_STRIDE = 16
"""Pixels of the image for each position of the third stage, the first with filters."""
STEM, HEAD = "downsample_layers.0.0.weight", "head.weight"
STAGED = {name: arguments for name, arguments in VARIANTS.items() if len(arguments["depths"]) == 4}
"""The sizes with four stages, as the released ones."""


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """What some weights are of."""

    model: str
    """The network's name, as hornet_large_gf; the one shaped for 384 pixels if there is one."""
    image_size: int
    """Edge of the images that their filters are shaped for, pixels; of networks without filters 224."""
    num_rows: int
    """Rows of the head; 0 without one."""


def recognise_file(path: Path, *, weights: Weights) -> Recognised:
    """Recognise the network of a weight file; raises UserError, with the keys that differ, if it is no HorNet here."""
    return recognise(read_pretrained(path, weights=weights, label_space=None).state_dict, source=str(path))


def recognise(state_dict: Mapping[str, Tensor], *, source: str) -> Recognised:
    """Recognise the network of some weights by its plain names.

    Raises UserError, with the keys that differ from the nearest network, if they are none of HorNet's.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    stem = shapes.get(STEM, ())
    has_filters = any(FILTER.fullmatch(name) for name in shapes)
    names = [
        name
        for name, arguments in STAGED.items()
        if stem[:1] == (arguments["width"],) and bool(arguments.get("filter_stages")) == has_filters
    ]
    if not names:
        widths = sorted({arguments["width"] for arguments in STAGED.values()})
        found = f"is {stem}" if stem else "is not there"
        raise UserError(
            f"{source}: is not recognised as a HorNet: {STEM} {found}, and the known ones have "
            f"{', '.join(map(str, widths))} channels; say which network it is with model=NAME"
        )
    grids = [shape[1] for name, shape in shapes.items() if FILTER.fullmatch(name) and len(shape) == 4]
    size = FILTER_STRIDE * grids[0] if grids else NATIVE_SIZE
    name = next((name for name in names if STAGED[name].get("img_size") == size), names[0])
    num_rows = shapes[HEAD][0] if shapes.get(HEAD) else 0
    if size % FILTER_STRIDE == 0 and size >= 32:
        _require_equal(shapes, _list_shapes(name, num_rows, size), name=name, source=source)
    return Recognised(model=name, image_size=size, num_rows=num_rows)


def guess_label_space(num_rows: int) -> LabelSpace | None:
    """Return the only known label space of that many classes; None if there is none, or several."""
    names = name_by_size(num_rows)
    return make_layout(names[0]) if len(names) == 1 else None


def _list_shapes(name: str, num_rows: int, size: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=num_rows, img_size=size)
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def _require_equal(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], *, name: str, source: str
) -> None:
    differing = {
        "missing": [key for key in expected if key not in found],
        "unknown": [key for key in found if key not in expected],
        "of another shape": [
            f"{key} {found[key]} for {shape}" for key, shape in expected.items() if found.get(key, shape) != shape
        ],
    }
    if any(differing.values()):
        listed = "; ".join(f"{len(keys)} {what} ({list_first(keys)})" for what, keys in differing.items() if keys)
        raise UserError(
            f"{source}: is not recognised; the nearest network is {name}, from which it differs: {listed}; say which "
            "network it is with model=NAME"
        )

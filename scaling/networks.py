"""Sizes and costs of a study's networks, built without memory. Remembered in the study's folder: torch takes long."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hornet.config import to_values
from hornet.durable import write_json
from scaling.cells import Cell
from scaling.state import read_records

FILE = "networks.json"


@dataclass(frozen=True, kw_only=True)
class NetworkFacts:
    """What follows from the network, the image size and the classes alone."""

    num_parameters: int
    """All of them."""
    num_head_parameters: int
    """Those of the classifier, which grow with the classes."""
    flops_per_image: int
    """Floating point operations of one image's forward and backward pass."""

    @property
    def size(self) -> int:
        """The N of laws: parameters without the classifier."""
        return self.num_parameters - self.num_head_parameters


def describe_networks(cells: Sequence[Cell], folder: Path) -> dict[str, NetworkFacts]:
    """Return the facts of each cell's network, by the cell's name; what is not in the folder's file is built."""
    known = read_records(folder / FILE, NetworkFacts)
    wanted = {key_of(cell): cell for cell in cells}
    new = {key: _build(cell) for key, cell in wanted.items() if key not in known}
    if new:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, {key: asdict(facts) for key, facts in (known | new).items()})
    return {cell.name: (known | new)[key_of(cell)] for cell in cells}


def key_of(cell: Cell) -> str:
    """Return what a network's size and cost depend on, as 16 hex digits below its name."""
    model = {key: value for key, value in to_values(cell.config.model).items() if key != "drop_path_rate"}
    parts = [model, cell.train.num_classes, cell.config.data.transform.image_size]
    return f"{cell.config.model.name}:{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]}"


def _build(cell: Cell) -> NetworkFacts:
    from hornet.model.build import get_classifier_names
    from hornet.model.cost import count_training_flops
    from hornet.planning.activations import build_on_meta

    size = cell.config.data.transform.image_size
    model = build_on_meta(cell.config.model, num_classes=cell.train.num_classes, image_size=size)
    head = get_classifier_names(model)
    return NetworkFacts(
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        num_head_parameters=sum(value.numel() for name, value in model.named_parameters() if name in head),
        flops_per_image=count_training_flops(model, size),
    )

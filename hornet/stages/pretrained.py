"""Pretrained weights from wherever they lie: a run, a checkpoint in one, or a weight file.

Not here: fitting them to another network (finetune/start.py).
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from hornet.errors import UserError
from hornet.model.resize import get_filter_grids, resize_filters
from hornet.shards.imagenet import find_label_space
from hornet.shards.label_report import describe_space, guess_by_size
from hornet.shards.label_space import LabelSpace, read_label_space
from hornet.training.checkpoints.checkpoint import MANIFEST, Checkpoint, find_newest, verify_checkpoint
from hornet.training.checkpoints.weights import read_weights
from hornet.training.config import Weights

WRAPPERS = ("model", "state_dict", "module")
"""Keys under which weight files are known to keep their state dict."""


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Weights, and what their head's rows mean."""

    state_dict: Mapping[str, Tensor]
    """Weights by the original's parameter names."""
    label_space: LabelSpace | None
    """Classes of the head; None if unknown."""
    description: Mapping[str, Any]
    """What the checkpoint says of them: model, image_size, mean, std; empty for a weight file."""
    source: str
    """Where they came from, for people."""


def read_pretrained(path: Path, *, weights: Weights, label_space: str | None) -> Pretrained:
    """Read weights from a run directory, a checkpoint folder or a weight file.

    `label_space` (see `find_label_space`) tells what the head of a weight file means.
    Raises UserError if there are no weights, or they are damaged or hold more than tensors.
    """
    if path.is_dir():
        if label_space is not None:
            raise UserError(f"{path}: a checkpoint knows its own label space; give none")
        checkpoint = verify_checkpoint(path) if (path / MANIFEST).exists() else _newest_of_run(path)
        return Pretrained(
            state_dict=read_weights(checkpoint, weights=weights),
            label_space=read_label_space(checkpoint.description["label_space"], source=checkpoint.folder / MANIFEST),
            description=checkpoint.description,
            source=f"{checkpoint.folder} ({weights} weights)",
        )
    if weights != "raw":
        raise UserError(f"{path}: a weight file holds one kind of weights; ask for raw ones")
    return Pretrained(
        state_dict=read_weight_file(path),
        label_space=None if label_space is None else find_label_space(label_space),
        description={},
        source=str(path),
    )


def require_head_of(start: Pretrained, label_space: LabelSpace) -> None:
    """Raise UserError if weights that are to be evaluated have no head, or one of another size than the label space."""
    head = start.state_dict.get("head.weight")
    if head is None:
        raise UserError(f"{start.source}: holds no head (head.weight), so it cannot classify; finetune it first")
    if len(head) != len(label_space):
        raise UserError(
            f"{start.source}: its head has {len(head)} rows{guess_by_size(len(head))}, not those of "
            f"{describe_space(label_space)}; give weights and a set of one label space"
        )


def load_weights(state_dict: Mapping[str, Tensor], model: nn.Module, *, source: str) -> int:
    """Load weights into a model, filters resized to its grids; return the number of filters that were resized.

    Raises UserError, naming parameters, if the weights are of another network.
    """
    fitted = resize_filters(state_dict, grids=get_filter_grids(model))
    expected = model.state_dict()
    wrong = [name for name in expected if name not in fitted or fitted[name].shape != expected[name].shape]
    wrong += [name for name in fitted if name not in expected]
    if wrong:
        raise UserError(
            f"{source}: does not fit the model: {len(wrong)} parameters are missing, unknown or of another shape "
            f"({', '.join(wrong[:5])}); choose the model and the classes it was trained with"
        )
    model.load_state_dict(fitted)
    return sum(fitted[name] is not state_dict[name] for name in fitted)


def read_weight_file(path: Path) -> dict[str, Tensor]:
    """Read a .safetensors file, or a .pth/.pt file that holds a state dict, bare or under a known key.

    Raises UserError; never runs code from the file.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} holds more than tensors and is refused: {str(error).splitlines()[0]}") from error
    except Exception as error:  # safetensors and torch raise many kinds on bytes they do not know
        raise UserError(f"{path} is not a weight file: {str(error).splitlines()[0]}") from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} holds no state dict; tried the file itself and its keys {', '.join(WRAPPERS)}")
    return dict(content)


def _newest_of_run(path: Path) -> Checkpoint:
    checkpoint = find_newest(path / "checkpoints")
    if checkpoint is None:
        raise UserError(f"{path} is neither a run with checkpoints nor a checkpoint")
    return checkpoint

"""Pretrained weights from wherever they lie: a run, a checkpoint in one, a weight file or a folder of one.

Not here: fitting them to another network (finetune/start.py).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from hornet.data.config import Channels, MixingConfig
from hornet.durable import hash_file
from hornet.errors import UserError
from hornet.model.config import ModelConfig
from hornet.model.resize import fit_to_model
from hornet.model.state_dicts import find_state_dicts, plain_names
from hornet.runs.directory import read_summary
from hornet.shards.imagenet import find_label_space
from hornet.shards.label_report import describe_space, guess_by_size
from hornet.shards.label_space import LabelSpace, read_label_space
from hornet.stages.config import SourceConfig
from hornet.training.checkpoints.checkpoint import MANIFEST, Checkpoint, find_newest, step_of, verify_checkpoint
from hornet.training.checkpoints.foreign import FOLDER_FILES
from hornet.training.checkpoints.weight_file import find_weights_in_folder, list_weight_files, read_weight_file
from hornet.training.checkpoints.weights import read_weights
from hornet.training.config import Weights

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Numbers that mean what they say; integers and 8-bit floats need scales that their own tools know."""


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Weights, and what their head's rows mean."""

    state_dict: Mapping[str, Tensor]
    """Weights by the original's parameter names."""
    label_space: LabelSpace | None
    """Classes of the head; None if unknown."""
    description: Mapping[str, Any]
    """What the checkpoint says of them: model, image_size, mean, std; of a folder of weights what its config.json says
    of mean and std; empty for a weight file."""
    source: str
    """Where they came from, for people."""
    step: int | None = None
    """After which step of its run a checkpoint was written; None for a weight file."""


def read_pretrained(path: Path | str, *, weights: Weights, label_space: str | None) -> Pretrained:
    """Read weights from a run directory, a checkpoint folder, a weight file or a folder that holds one.

    `label_space` (see `find_label_space`) tells what the head of a weight file means.
    Raises UserError if there are no such weights, or they are damaged, not finite, or hold more than tensors and what
    training scripts are known to leave beside them.
    """
    file = path = Path(path)
    if os.path.isdir(path):  # noqa: PTH112  a path that cannot be looked at is no folder, and the reader says why
        found = None if (path / MANIFEST).exists() else find_weights_in_folder(path)
        if found is None:
            return _read_checkpoint(path, weights=weights, label_space=label_space)
        file = found
    by_kind = find_state_dicts(read_weight_file(file), source=str(file))
    if weights not in by_kind:
        raise UserError(
            f"{file} holds averaged weights only ({by_kind['ema'].key}); ask for weights=ema"
            if weights == "raw"
            else f"{file} holds one kind of weights and none that it calls averaged; ask for raw ones"
        )
    state_dict, remarks = plain_names(by_kind[weights].state_dict)
    key = by_kind[weights].key
    told = [f"{weights} weights" + (f" under {key!r}" if key else "")]
    told += [f"{kind} ones are there too, under {other.key!r}" for kind, other in by_kind.items() if kind != weights]
    told += [f"left out: {'; '.join(remarks)}"] if remarks else []
    source = str(file) if not (key or remarks) else f"{file} ({', '.join(told)})"
    _require_usable(state_dict, source=source)
    return Pretrained(
        state_dict=state_dict,
        label_space=None if label_space is None else find_label_space(label_space),
        description=_read_normalising(file),
        source=source,
    )


def _read_normalising(file: Path) -> dict[str, Any]:
    """Return mean and std from a config.json beside the weights of a folder, as timm's hub has it; empty without.

    Raises UserError if it cannot be read: by other numbers the same weights are worth less, and nobody would know why.
    """
    path = file.with_name("config.json")
    if file.name not in FOLDER_FILES or not path.exists():
        return {}
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: is no JSON that can be read ({type(error).__name__}), and may say how images are normalised for "
            f"{file.name}; copy the folder again, or remove it"
        ) from error
    told = value.get("pretrained_cfg", value) if isinstance(value, Mapping) else None
    found = {key: told.get(key) for key in ("mean", "std")} if isinstance(told, Mapping) else {}
    return found if found and all(_is_of_channels(numbers) for numbers in found.values()) else {}


def _is_of_channels(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(one) in (int, float) for one in value)


def identify_weights(path: Path) -> str:
    """Return 64 hex digits of what `read_pretrained` reads there: what a finetuning's digest says of its start.

    Those of the run (`digest` of its summary.json) for the weights it has ended with; else the SHA-256 of the
    checkpoint's manifest or of the file or files. Raises UserError as `read_pretrained`.
    """
    file: Path | None = path
    if path.is_dir():
        file = None if (path / MANIFEST).exists() else find_weights_in_folder(path)
    if file is not None:
        digests = [hash_file(part) for part in list_weight_files(file)]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    folder = path if (path / MANIFEST).exists() else _newest_of_run(path).folder
    summary = read_summary(folder.parent.parent) or {}
    if summary.get("checkpoint") == f"checkpoints/{folder.name}" and summary.get("digest") is not None:
        return str(summary["digest"])
    return str(json.loads((folder / MANIFEST).read_text())["sha256"])


def _read_checkpoint(path: Path, *, weights: Weights, label_space: str | None) -> Pretrained:
    if label_space is not None:
        raise UserError(f"{path}: a checkpoint knows its own label space; give none")
    checkpoint = verify_checkpoint(path) if (path / MANIFEST).exists() else _newest_of_run(path)
    if (task := checkpoint.description.get("task")) is not None:  # classifiers have none
        raise UserError(
            f"{checkpoint.folder}: holds a network for {task}, no classifier; start from what its backbone started from"
        )
    return Pretrained(
        state_dict=read_weights(checkpoint, weights=weights),
        label_space=read_label_space(checkpoint.description["label_space"], source=checkpoint.folder / MANIFEST),
        description=checkpoint.description,
        source=f"{checkpoint.folder} ({weights} weights)",
        step=step_of(checkpoint.folder),
    )


def _require_usable(state_dict: Mapping[str, Tensor], *, source: str) -> None:
    """Raise UserError if tensors are not plain ones, claim more than their memory, or hold NaN or infinity."""
    for name, tensor in state_dict.items():
        is_plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        # A tensor of stride 0 can claim any size; it must not become memory at a copy.
        if not is_plain or tensor.nbytes > tensor.untyped_storage().nbytes():
            raise UserError(f"{source}: {name!a} is no plain tensor with a number of its own for each element")
    damaged = [name for name, weight in state_dict.items() if weight.dtype in DTYPES and not weight.isfinite().all()]
    if damaged:
        raise UserError(
            f"{source}: holds NaN or infinity in {len(damaged)} tensors ({list_first(damaged)}); the training that "
            "wrote them had failed, take an earlier checkpoint"
        )


def tell_normalising(start: Pretrained, *, mean: Channels, std: Channels, key: str) -> list[str]:
    """Return a line if the start learned from images that were normalised in another way; a weight file does not say.

    `key` is what stands before `mean` and `std` in the run's settings.
    """
    learned = [start.description.get("mean"), start.description.get("std")]
    if learned in ([None, None], [list(mean), list(std)]):
        return []
    return [
        f"images: normalised by {key}mean={list(mean)} and {key}std={list(std)}, while the start learned from images "
        f"normalised by {learned[0]} and {learned[1]}, which its weights fit"
    ]


def describe_usual(name: str, mixing: MixingConfig) -> str | None:
    """Say that the weights which timm publishes of a network want images that are normalised otherwise, if they do."""
    usual = timm.get_pretrained_cfg(name)
    if usual is None or (tuple(usual.mean), tuple(usual.std)) == (mixing.mean, mixing.std):
        return None
    return (
        f"images are normalised by mean={list(mixing.mean)} and std={list(mixing.std)}; if these are weights of "
        f"timm's, they want mixing={{mean: {list(usual.mean)}, std: {list(usual.std)}}}"
    )


def require_head_of(start: Pretrained, label_space: LabelSpace, *, name: str = "head.weight") -> None:
    """Raise UserError if weights that are to be evaluated have no head `name`, or one of another size than the labels.

    They have the model's names by now (`adapt`).
    """
    head = start.state_dict.get(name)
    if head is None or head.dim() == 0:
        raise UserError(f"{start.source}: holds no head ({name}), so it cannot classify; finetune it first")
    if len(head) != len(label_space):
        raise UserError(
            f"{start.source}: its head has {len(head)} rows{guess_by_size(len(head))}, not those of "
            f"{describe_space(label_space)}; give weights and a set of one label space"
        )


def choose_network(config: SourceConfig, known: Mapping[str, Any]) -> ModelConfig:
    """Return how the network of some weights is built: as the user says, else as their `description` does.

    Raises UserError if neither names it.
    """
    name = config.model or known.get("model")
    if name is None:
        raise UserError(f"model: is missing; {config.source} does not say which model its weights are of")
    its_own = known if name == known.get("model") else {}
    return ModelConfig(
        name=name,
        module=config.module or its_own.get("module"),
        arguments=its_own.get("arguments") if config.arguments is None else config.arguments,
        resize=config.resize or its_own.get("resize", "bilinear"),
    )


def adapt(start: Pretrained, model: nn.Module) -> Pretrained:
    """Return weights under the model's names and for its image size, as far as they go.

    Raises UserError, naming parameters, for weights that cannot be resized.
    """
    try:
        fitted = fit_to_model(start.state_dict, model)
    except Exception as error:  # timm's functions raise anything for weights of the wrong shape
        raise UserError(f"{start.source}: does not fit the model: {error}") from error
    # Counters that only frameworks read: files of weights come with them or without.
    own = model.state_dict()
    fitted |= {name: own[name] for name in own.keys() - fitted.keys() if name.endswith("num_batches_tracked")}
    return dataclasses.replace(start, state_dict=fitted)


def load_weights(state_dict: Mapping[str, Tensor], model: nn.Module, *, source: str) -> int:
    """Load weights into a model, resized to its image size; return the number of tensors that were resized.

    Weights of half or double precision become the model's. Raises UserError, naming parameters, if the weights are of
    another network.
    """
    expected = model.state_dict()
    start = Pretrained(state_dict=state_dict, label_space=None, description={}, source=source)
    fitted = adapt(start, model).state_dict
    missing = [name for name in expected if name not in fitted]
    unknown = [name for name in fitted if name not in expected]
    common = [name for name in expected if name in fitted]
    misshapen = [
        f"{name} {tuple(fitted[name].shape)} for {tuple(expected[name].shape)}"
        for name in common
        if fitted[name].shape != expected[name].shape
    ]
    quantized = [
        f"{name} {fitted[name].dtype}"
        for name in common
        if expected[name].is_floating_point() and fitted[name].dtype not in DTYPES
    ]
    problems = {"missing": missing, "unknown": unknown, "of another shape": misshapen, "no plain floats": quantized}
    if any(problems.values()):
        listed = "; ".join(
            f"{len(some)} parameters are {what} ({list_first(some)})" for what, some in problems.items() if some
        )
        raise UserError(
            f"{source}: does not fit the model: {listed}; choose the model and the classes it was trained with"
        )
    model.load_state_dict(fitted)
    return sum(name in state_dict and fitted[name].shape != state_dict[name].shape for name in fitted)


def list_first(names: Sequence[str]) -> str:
    """Return the first names of parameters, as they may be printed."""
    shown = [name if name.isprintable() else ascii(name) for name in names[:3]]
    return ", ".join(shown) + (", ..." if len(names) > 3 else "")


def _newest_of_run(path: Path) -> Checkpoint:
    checkpoint = find_newest(path / "checkpoints")
    if checkpoint is None:
        remark = (
            "; it is a distributed checkpoint of torch's, which "
            "`python -m torch.distributed.checkpoint.format_utils dcp_to_torch` makes a file of"
            if (path / ".metadata").exists()
            else ""
        )
        raise UserError(
            f"{path} is neither a run with checkpoints nor a checkpoint, and holds none of {', '.join(FOLDER_FILES)}"
            + remark
        )
    return checkpoint

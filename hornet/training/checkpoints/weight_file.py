"""What a weight file, or a folder of them, holds: tensors in their containers, by content and not by the name's ending.

Not here: which of them are the weights, and their names (hornet/model/state_dicts.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hornet.errors import UserError
from hornet.training.checkpoints.foreign import (
    FOLDER_FILES,
    TORCH_BEFORE_1_6,
    ZIP,
    count_header_bytes,
    explain_archive,
    read_head,
    read_weights_head,
)
from hornet.training.checkpoints.unpickling import PLAIN_CLASSES, load_pickled, shorten

_MAX_INDEX_BYTES = 64 << 20


def find_weights_in_folder(folder: Path) -> Path | None:
    """Return the weight file of a folder, or the index of its parts; None without."""
    return next((folder / name for name in FOLDER_FILES if (folder / name).exists()), None)


def list_weight_files(path: Path) -> list[Path]:
    """Return the file, or an index.json and the parts that it lists; raises UserError."""
    if not path.name.endswith(".index.json"):
        return [path]
    return [path, *(path.parent / name for name in sorted(set(_read_index(path).values())))]


def read_weight_file(path: Path) -> Any:
    """Return the content of a file of torch.save or safetensors, or of all parts that an index.json lists, on the CPU.

    Nothing from the file is run. Raises UserError that says what the file is, if it is neither.
    """
    if path.name.endswith(".index.json"):
        return _read_parts(path)
    head = read_weights_head(path)
    if head.startswith(ZIP):
        problem = _explain_archive(path)
        if problem is not None:
            raise UserError(f"{path} {problem}")
        return load_pickled(path, classes=PLAIN_CLASSES, mmap=True)
    if head.startswith(TORCH_BEFORE_1_6):
        return load_pickled(path, classes=PLAIN_CLASSES, mmap=False)
    return _read_safetensors(path, is_whole=8 + (count_header_bytes(head) or 0) <= path.stat().st_size)


def _explain_archive(path: Path) -> str | None:
    try:
        return explain_archive(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_safetensors(path: Path, *, is_whole: bool) -> dict[str, Tensor]:
    if not is_whole:
        raise UserError(f"{path} is cut short: it ends within its header; download or copy it again")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} is a safetensors file that is cut short or damaged ({shorten(error)}); download or copy it again"
        ) from error


def _read_parts(index: Path) -> dict[str, Tensor]:
    """Read all files that an index names. They must lie beside it: an index of a stranger reads nothing else."""
    tensors: dict[str, Tensor] = {}
    owners = _read_index(index)
    for name in sorted(set(owners.values())):
        part = index.parent / name
        content = read_weight_file(part)
        if not isinstance(content, Mapping):
            raise UserError(f"{part} holds no tensors by name, though {index.name} lists it")
        expected = [tensor for tensor, owner in owners.items() if owner == name]
        missing = [tensor for tensor in expected if not isinstance(content.get(tensor), Tensor)]
        if missing:
            raise UserError(f"{part} lacks {missing[0]!a}, which {index.name} says is in it; download both again")
        tensors |= {tensor: content[tensor] for tensor in expected}
    return tensors


def _read_index(index: Path) -> dict[str, str]:
    """Return tensor name -> file name; raises UserError if it is no such index, or names files elsewhere."""
    read_head(index)
    num_bytes = index.stat().st_size
    if num_bytes > _MAX_INDEX_BYTES:
        raise UserError(f"{index} has {num_bytes} bytes; an index of weights has {_MAX_INDEX_BYTES} at most")
    try:
        owners = json.loads(index.read_bytes())["weight_map"]
        is_plain = all(isinstance(owner, str) for owner in owners.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index} is no index of weights: it has no weight_map of names to files") from error
    wrong = [owner for owner in owners.values() if not is_plain or not _is_part(owner)]
    if not owners or wrong:
        raise UserError(f"{index}: its weight_map must name files beside it, not {wrong[0] if wrong else 'none'!a}")
    return dict(owners)


def _is_part(name: str) -> bool:
    """Tell whether a file of that name lies in the index's folder, and is no index that would lead on."""
    return Path(name).name == name and "\\" not in name and not name.endswith(".index.json")

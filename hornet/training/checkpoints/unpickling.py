"""Reading what torch.save wrote, from anybody, without running anything that the file names."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hornet.errors import UserError


class Skipped:
    """Stands where a file holds a plain object beside its tensors; takes whatever it is given and keeps nothing."""

    def __new__(cls, *arguments: object) -> Skipped:
        """Accept any arguments: a class of the file is never called."""
        return super().__new__(cls)

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _skip_dict(*arguments: object) -> dict[Any, Any]:
    return {}


def _skip_list(*arguments: object) -> list[Any]:
    return []


_NUMPY = [f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")]
_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")

# What training scripts are known to leave beside the tensors. None is built: its stand-in is, and thrown away.
PLAIN_CLASSES: Mapping[str, Any] = {
    **dict.fromkeys(("argparse.Namespace", "types.SimpleNamespace"), Skipped),
    **dict.fromkeys((*_NUMPY, "numpy.dtype", "numpy.ndarray"), Skipped),
    **{f"{module}.{name}": Skipped for module in ("pathlib", "pathlib._local") for name in _PATHS},
    **{f"datetime.{name}": Skipped for name in ("date", "datetime", "time", "timedelta", "timezone")},
    "torch.torch_version.TorchVersion": Skipped,
    # The unpickler fills dicts and lists only, so these stand for their relatives; types are factories of defaultdict.
    "collections.defaultdict": _skip_dict,
    "collections.deque": _skip_list,
    **{f"builtins.{name}": Skipped for name in ("dict", "float", "int", "list", "str")},
}


def load_pickled(path: Path, *, classes: Mapping[str, Any], mmap: bool) -> Any:
    """Read a file of torch.save by torch's weights-only unpickler, which builds tensors, containers and `classes`.

    `classes`: full name -> what is called in its place. With `mmap`, pages of tensors come in when they are used.
    Raises UserError naming the class if the file holds another one, or if it is cut or cannot be read.
    """
    try:
        with only_these_classes(classes), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols: what cannot be read is refused below
            if path.suffix != ".safetensors":
                return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
            with path.open("rb") as file:  # by its name torch would take it for safetensors
                return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} is refused: {_explain_refusal(str(error))}") from error
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # torch raises many kinds on bytes that are not what they should be
        raise UserError(f"{path} is cut short or damaged: {shorten(error)}") from error


@contextmanager
def only_these_classes(classes: Mapping[str, Any]) -> Iterator[None]:
    """Let the weights-only unpickler know `classes` and none that any library added for the whole process."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([(stand_in, name) for name, stand_in in classes.items()])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def shorten(error: BaseException) -> str:
    """Return the first line of a library's complaint, or its kind, without anything that a terminal would obey."""
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return "".join(letter for letter in line if letter.isprintable())[:200]


def _explain_refusal(complaint: str) -> str:
    found = re.search(r"GLOBAL (\S+)", complaint)  # torch names it so, whether unknown or forbidden
    what = f"an object of {found[1]!a}" if found else "objects"
    return (
        f"it holds {what} beside its tensors, and building such could run code; where the file was made, save the "
        'tensors alone: torch.save(model.state_dict(), "weights.pth")'
    )

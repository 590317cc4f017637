"""Checkpoints that appear whole or not at all, say what they are, and are verified before they are used.

A checkpoint is a folder `step_00000300` with the engine's files and `manifest.json`. It is written under a name that
ends in `.partial` and renamed when every rank is done; `latest` is replaced last.
Not here: writing (saver.py, writer.py), what an engine's files hold (hornet/training/engines/), and what is kept of a
run beside them (state.py).
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hornet.durable import hash_file
from hornet.errors import UserError
from hornet.formats import CHECKPOINT, LaterFormatError, read_manifest
from hornet.training.checkpoints.state import RunState
from hornet.training.loop import Engine
from hornet.training.process_group import errors_shared, tell_all
from hornet.world import World

FORMAT = "hornet-checkpoint"
PARTIAL = ".partial"
MANIFEST = "manifest.json"
LATEST = "latest"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    folder: Path
    """`.../checkpoints/step_00000300`."""
    step: int
    """Optimizer steps done."""
    identity: Mapping[str, Any]
    """What wrote it and on what: engine, model, label space, stream."""
    description: Mapping[str, Any]
    """What a reader of the weights needs: model, label space, preprocessing."""
    state: Mapping[str, Any]
    """RunState, as JSON values."""


# Called with a whole checkpoint; raises UserError if the run cannot go on from this one.
Require = Callable[[Checkpoint], None]


def _require_nothing(_: Checkpoint) -> None: ...


def find_checkpoint(root: Path, *, world: World, require: Require = _require_nothing) -> Checkpoint | None:
    """Return the newest whole checkpoint, None if there never was one. Collective; rank 0 looks.

    A damaged checkpoint, or one of which `require` raises UserError, is named on stdout and the one before it is taken.
    Raises UserError if there are checkpoints, but no such one: a run never starts afresh over the ruins of another.
    """
    found: Checkpoint | None = None
    with errors_shared():
        if world.is_main:
            found = find_newest(root, require=require)
    return tell_all(found)


def load_checkpoint(checkpoint: Checkpoint, *, engine: Engine, state: RunState, identity: Mapping[str, Any]) -> None:
    """Restore engine and state. Collective.

    The number of ranks and the ZeRO stage may be others than those that wrote it. Raises UserError if the checkpoint is
    of another identity.
    """
    require_identity(checkpoint, identity)
    engine.load(checkpoint.folder)
    for name, value in checkpoint.state.items():
        setattr(state, name, value)


def require_identity(checkpoint: Checkpoint, identity: Mapping[str, Any]) -> None:
    """Raise UserError, with both values, if a checkpoint is of another model, stream or engine."""
    for key, value in identity.items():
        saved = checkpoint.identity.get(key)
        if saved != value:
            raise UserError(
                f"{checkpoint.folder}: was written with {key}={saved!r}, this run has {key}={value!r}; start as before"
            )


def verify_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint's manifest and compare every file's size and SHA-256.

    Raises UserError naming what is missing, foreign or damaged; LaterFormatError if it is whole, but too new.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except OSError as error:
        raise UserError(
            f"{folder}: has no {MANIFEST}; it was not written by this pipeline, or not to the end"
        ) from error
    except ValueError as error:
        raise UserError(f"{path}: is not JSON") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{path}: is not a manifest of this pipeline (format {FORMAT!r} expected)")
    CHECKPOINT.read_number(manifest, source=str(path))  # before the seal, which a later release may set otherwise
    if manifest != seal(manifest) or folder.name != name_of(manifest["step"]):
        raise UserError(f"{path}: its content has changed since it was written")
    manifest = read_manifest(manifest, source=str(path))
    with ThreadPoolExecutor(8) as threads:  # hashing and reading leave Python's lock
        list(threads.map(lambda item: _verify_file(folder / item[0], item[1]), manifest["files"].items()))
    return Checkpoint(
        folder=folder,
        step=manifest["step"],
        identity=manifest["identity"],
        description=manifest["description"],
        state={**asdict(RunState()), **manifest["state"]},  # what earlier releases did not count has not happened
    )


def name_of(step: int) -> str:
    """Return the folder name of a step's checkpoint."""
    return f"step_{step:08d}"


def step_of(folder: Path) -> int:
    """Return the step of a checkpoint's folder."""
    return int(folder.name.removeprefix("step_"))


def list_checkpoints(root: Path) -> list[Path]:
    """Return the folders named as checkpoints, oldest first; half-written ones and others are left out."""
    return sorted((path for path in root.iterdir() if re.fullmatch(r"step_\d+", path.name)), key=step_of)


def set_aside(folder: Path) -> None:
    """Move a checkpoint out of the way, to `set_aside/` of the run, never to be taken or removed by the run."""
    aside = folder.parent.parent / "set_aside"
    aside.mkdir(exist_ok=True)
    folder.rename(aside / f"{folder.name}.{time.time_ns()}")


def seal(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Add the SHA-256 of a manifest's own content."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return {**content, "sha256": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


def find_newest(root: Path, *, require: Require = _require_nothing) -> Checkpoint | None:
    """As find_checkpoint, for one process alone."""
    if not root.exists():
        return None
    reasons = []
    for folder in reversed(list_checkpoints(root)):
        try:
            checkpoint = verify_checkpoint(folder)
            require(checkpoint)
            return checkpoint
        except LaterFormatError:
            raise  # it is whole: to go on from an earlier one would undo what the later release has trained
        except UserError as error:
            reasons.append(str(error))
            print(f"passing over a checkpoint: {error}", flush=True)
    foreign = sorted(path.name for path in root.iterdir() if not path.name.endswith((PARTIAL, ".tmp")))
    if foreign:
        reasons = reasons or [f"it holds {', '.join(foreign[:5])}"]
        raise UserError(f"{root}: holds no usable checkpoint: {'; '.join(reasons)}; move it away to start afresh")
    return None


def _verify_file(path: Path, expected: Mapping[str, Any]) -> None:
    if not path.exists():
        raise UserError(f"{path}: is missing")
    num_bytes = path.stat().st_size
    if num_bytes != expected["bytes"]:
        raise UserError(f"{path}: has {num_bytes} bytes, its manifest says {expected['bytes']}")
    try:
        described = {"bytes": num_bytes, "sha256": hash_file(path)}
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if described != expected:
        raise UserError(f"{path}: its bytes have changed since it was written (SHA-256 differs)")

"""Checkpoints that appear whole or not at all, say what they are, and are verified before they are used.

A checkpoint is a folder `step_00000300` with the engine's files and `manifest.json`. It is written under a name that
ends in `.partial` and renamed when every rank is done; `latest` is replaced last.
Not here: what an engine's files hold (hornet/training/engines/).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hornet.durable import sync_files, sync_folder, write_json, write_text
from hornet.errors import UserError
from hornet.training.loop import Engine, RunState
from hornet.training.process_group import errors_shared, gather_from_all, raise_together, tell_all
from hornet.world import World

FORMAT = "hornet-checkpoint"
VERSION = 1
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
    """What wrote it and on what: engine, ranks, model, label space, stream."""
    description: Mapping[str, Any]
    """What a reader of the weights needs: model, label space, preprocessing."""
    counters: Mapping[str, int]
    """RunState besides the step."""


def save_checkpoint(
    root: Path,
    *,
    engine: Engine,
    state: RunState,
    identity: Mapping[str, Any],
    description: Mapping[str, Any],
    world: World,
    keep: int,
) -> Path:
    """Write the checkpoint of `state.step` and make it `latest`; then remove all but the newest `keep`. Collective.

    Raises UserError on every rank if any rank could not write; the earlier checkpoints are untouched.
    """
    final = root / f"step_{state.step:08d}"
    partial = root / (final.name + PARTIAL)
    try:
        _on_main(world, lambda: _make_empty(partial))
        written = _write_parts(engine, partial)
        counters = {"num_bad_samples": state.num_bad_samples, "num_skipped_steps": state.num_skipped_steps}
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "step": state.step,
            "counters": counters,
            "identity": dict(identity),
            "files": written,
            "description": dict(description),
        }
        _on_main(world, lambda: _publish(partial, final, manifest))
    except (OSError, UserError) as error:  # this rank's, or another's
        raise UserError(
            f"{final}: the checkpoint could not be saved: {error}; earlier checkpoints are untouched"
        ) from error
    _on_main(world, lambda: _remove_old(root, step=state.step, keep=keep))
    return final


def find_checkpoint(root: Path, *, world: World) -> Checkpoint | None:
    """Return the newest whole checkpoint, None if there never was one. Collective; rank 0 looks.

    A damaged checkpoint is named on stdout and the one before it is taken. Raises UserError if there are checkpoints,
    but no whole one: a run never starts afresh over the ruins of another.
    """
    found: Checkpoint | None = None
    with errors_shared():
        if world.is_main:
            found = find_newest(root)
    return tell_all(found)


def load_checkpoint(checkpoint: Checkpoint, *, engine: Engine, state: RunState, identity: Mapping[str, Any]) -> None:
    """Restore engine and state. Collective.

    Raises UserError if the checkpoint is of another model, stream, engine or number of ranks, with both values.
    """
    for key, value in identity.items():
        saved = checkpoint.identity.get(key)
        if saved != value:
            raise UserError(
                f"{checkpoint.folder}: was written with {key}={saved!r}, this run has {key}={value!r}; start as before"
            )
    with errors_shared():
        engine.load(checkpoint.folder)
    state.step = checkpoint.step
    state.num_bad_samples = checkpoint.counters["num_bad_samples"]
    state.num_skipped_steps = checkpoint.counters["num_skipped_steps"]


def verify_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint's manifest and compare every file's size and SHA-256.

    Raises UserError naming what is missing, foreign or damaged.
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
    if manifest.get("version") != VERSION:
        raise UserError(f"{path}: has version {manifest.get('version')}, this code reads version {VERSION}")
    if manifest != _seal(manifest) or folder.name != f"step_{manifest['step']:08d}":
        raise UserError(f"{path}: its content has changed since it was written")
    for name, expected in manifest["files"].items():
        _verify_file(folder / name, expected)
    return Checkpoint(
        folder=folder,
        step=manifest["step"],
        identity=manifest["identity"],
        description=manifest["description"],
        counters=manifest["counters"],
    )


def _on_main(world: World, action: Callable[[], object]) -> None:
    """Let rank 0 act while the others wait for the outcome."""
    with errors_shared():
        if world.is_main:
            action()


def _make_empty(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _write_parts(engine: Engine, folder: Path) -> dict[str, dict[str, Any]]:
    """Let every rank write its files; return each file's size and checksum, by name, on every rank."""
    mine: dict[str, dict[str, Any]] = {}
    error: Exception | None = None
    try:
        names = engine.save(folder)
        sync_files(folder / name for name in names)
        mine = {name: _describe(folder / name) for name in names}
    except OSError as caught:
        error = caught
    raise_together(error)
    return {name: described for part in gather_from_all(mine) for name, described in part.items()}


def _publish(partial: Path, final: Path, manifest: Mapping[str, Any]) -> None:
    missing = [name for name in manifest["files"] if not (partial / name).exists()]
    if missing:
        raise OSError(f"rank 0 does not see {missing[0]}; the run directory must be on a disk that all nodes share")
    write_json(partial / MANIFEST, _seal(manifest))
    if final.exists():  # damaged, and passed over when this life of the run started
        shutil.rmtree(final)
    partial.rename(final)
    sync_folder(final.parent)
    write_text(final.parent / LATEST, final.name)


def _remove_old(root: Path, *, step: int, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints up to `step`, and what earlier lives left half-written.

    Checkpoints beyond `step` are damaged ones that this life has passed over: they are set aside, not counted.
    What cannot be removed is named; the run goes on, its newest checkpoint is safe.
    """
    folders = sorted(root.glob("step_*[0-9]"))
    try:
        for leftover in root.glob(f"step_*{PARTIAL}"):
            shutil.rmtree(leftover)
        for folder in folders:
            if _step_of(folder) > step:
                folder.rename(folder.with_name(f"{folder.name}.damaged.{time.time_ns()}"))
        for folder in [folder for folder in folders if _step_of(folder) <= step][:-keep]:
            # Renamed first: a kill in the middle of the removal must not leave a folder that looks like a checkpoint.
            shutil.rmtree(folder.rename(folder.with_name(folder.name + PARTIAL)))
    except OSError as error:
        print(f"warning: an old checkpoint could not be cleared away, remove it by hand: {error}", flush=True)


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))


def _seal(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Add the SHA-256 of a manifest's own content."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return {**content, "sha256": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


def find_newest(root: Path) -> Checkpoint | None:
    """As find_checkpoint, for one process alone."""
    if not root.exists():
        return None
    reasons = []
    for folder in sorted(root.glob("step_*[0-9]"), reverse=True):
        try:
            return verify_checkpoint(folder)
        except UserError as error:
            reasons.append(str(error))
            print(f"passing over a damaged checkpoint: {error}", flush=True)
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
        described = _describe(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if described != expected:
        raise UserError(f"{path}: its bytes have changed since it was written (SHA-256 differs)")


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}

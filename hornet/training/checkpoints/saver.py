"""Saving checkpoints while the run goes on: begun at a step, counted once every rank has written; old ones removed.

Not here: what a checkpoint is (checkpoint.py), how a rank's files are written (writer.py).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hornet.durable import sync_folder, write_json, write_text
from hornet.errors import UserError
from hornet.formats import CHECKPOINT
from hornet.training.checkpoints.checkpoint import (
    FORMAT,
    LATEST,
    MANIFEST,
    PARTIAL,
    list_checkpoints,
    name_of,
    seal,
    set_aside,
    step_of,
)
from hornet.training.checkpoints.state import RunState
from hornet.training.checkpoints.writer import CheckpointWriter
from hornet.training.config import RetentionConfig
from hornet.training.loop import Engine
from hornet.training.process_group import errors_shared, gather_from_all, raise_together, sum_over_ranks
from hornet.world import World


@dataclass(frozen=True)
class _Pending:
    """A checkpoint being written."""

    final: Path
    state: Mapping[str, Any]
    started: float

    @property
    def partial(self) -> Path:
        return self.final.with_name(self.final.name + PARTIAL)


class Checkpointer:
    """Writes a run's checkpoints, one at a time. All methods but `close` are collective.

    Every error is a UserError on every rank alike, and leaves the earlier checkpoints untouched.
    """

    def __init__(
        self,
        root: Path,
        *,
        engine: Engine,
        identity: Mapping[str, Any],
        description: Mapping[str, Any],
        world: World,
        retention: RetentionConfig,
        find_best: Callable[[Collection[int]], int | None],
        require_sole: Callable[[], None],
    ) -> None:
        """Both are asked on rank 0.

        `find_best` chooses among the steps on disk the one whose evaluation was best; `require_sole` raises UserError
        if another job writes here too.
        """
        self._root = root
        self._engine = engine
        self._identity = identity
        self._description = description
        self._world = world
        self._retention = retention
        self._find_best = find_best
        self._require_sole = require_sole
        self._writer = CheckpointWriter(is_asynchronous=retention.asynchronous)
        self._pending: _Pending | None = None
        self.longest_save_seconds = 0.0
        """From the beginning of a save until it was seen to count, the longest so far."""

    def save(self, state: RunState) -> None:
        """Take the state as it is now; it is a checkpoint when a later `poll` or `finish` has found it written."""
        self.finish()
        pending = _Pending(self._root / name_of(state.step), asdict(state), time.monotonic())
        with self._explained(pending.final):
            self._on_main(lambda: _make_empty(pending.partial))
            try:
                self._engine.save(pending.partial, self._writer)
                num_bytes = int(sum_over_ranks(torch.tensor(self._writer.num_bytes)))
                self._on_main(lambda: _require_space(self._root, num_bytes))
            except BaseException:
                self._writer.forget()
                raise
        self._writer.start()
        self._pending = pending
        if not self._retention.asynchronous:
            self.finish()

    def poll(self) -> None:
        """Make the checkpoint being written count, if every rank has written its part."""
        if self._pending is not None:
            num_done = sum_over_ranks(torch.tensor(int(self._writer.is_done())))
            if num_done == self._world.num_ranks:
                self.finish()

    def finish(self) -> None:
        """Wait for the checkpoint being written, if there is one, and make it count."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        with self._explained(pending.final):
            files = self._collect()
            manifest = {
                "format": FORMAT,
                **CHECKPOINT.header,
                "step": pending.state["step"],
                "state": pending.state,
                "identity": dict(self._identity),
                "num_ranks": self._world.num_ranks,
                "files": files,
                "description": dict(self._description),
            }
            self._on_main(self._require_sole)
            self._on_main(lambda: _publish(pending, manifest))
        self.longest_save_seconds = max(self.longest_save_seconds, time.monotonic() - pending.started)
        self._on_main(lambda: self._remove_old(step=pending.state["step"]))

    def close(self) -> None:
        """End the writing thread. What is pending and was not finished is left half-written, and never counts."""
        self._writer.close()

    def _collect(self) -> dict[str, dict[str, Any]]:
        """Return each file's size and checksum, by name, of all ranks."""
        mine: dict[str, dict[str, Any]] = {}
        error: Exception | None = None
        try:
            mine = self._writer.collect()
        except OSError as caught:
            error = caught
        raise_together(error)
        return {name: described for part in gather_from_all(mine) for name, described in part.items()}

    @contextmanager
    def _explained(self, final: Path) -> Any:
        try:
            yield
        except (OSError, UserError) as error:  # this rank's, or another's
            raise UserError(
                f"{final}: the checkpoint could not be saved: {error}; earlier checkpoints are untouched"
            ) from error

    def _on_main(self, action: Callable[[], object]) -> None:
        """Let rank 0 act while the others wait for the outcome."""
        with errors_shared():
            if self._world.is_main:
                action()

    def _remove_old(self, *, step: int) -> None:
        """Remove the checkpoints up to `step` that nothing keeps, and what earlier attempts left half-written.

        Checkpoints beyond `step` are damaged ones that this attempt has passed over: they are set aside, not counted.
        What cannot be removed is named; the run goes on, its newest checkpoint is safe.
        """
        folders = list_checkpoints(self._root)
        try:
            for leftover in self._root.glob(f"step_*{PARTIAL}"):
                shutil.rmtree(leftover)
            for folder in folders:
                if step_of(folder) > step:
                    set_aside(folder)
            steps = [step_of(folder) for folder in folders if step_of(folder) <= step]
            kept = choose_kept(steps, self._retention, best=self._find_best(steps) if self._retention.best else None)
            for removed in sorted(set(steps) - kept):
                folder = self._root / name_of(removed)
                # Renamed first: a kill in the middle of the removal must not leave what looks like a checkpoint.
                shutil.rmtree(folder.rename(folder.with_name(folder.name + PARTIAL)))
        except OSError as error:
            print(f"warning: an old checkpoint could not be cleared away, remove it by hand: {error}", flush=True)


def choose_kept(steps: Collection[int], retention: RetentionConfig, *, best: int | None) -> set[int]:
    """Return which of the checkpoints at `steps` stay."""
    kept = set(sorted(steps)[-retention.newest :])
    if retention.every_steps is not None:
        kept |= {step for step in steps if step % retention.every_steps == 0}
    return kept | ({best} if best is not None else set())


def _make_empty(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _require_space(root: Path, num_bytes: int) -> None:
    free_bytes = shutil.disk_usage(root).free
    if free_bytes < num_bytes:
        raise UserError(
            f"it takes {num_bytes / 1e9:.2f} GB, but the disk has {free_bytes / 1e9:.2f} GB free; "
            "make room, or keep fewer checkpoints (checkpoints.newest)"
        )


def _publish(pending: _Pending, manifest: Mapping[str, Any]) -> None:
    partial, final = pending.partial, pending.final
    missing = [name for name in manifest["files"] if not (partial / name).exists()]
    if missing:
        raise OSError(f"rank 0 does not see {missing[0]}; the run directory must be on a disk that all nodes share")
    write_json(partial / MANIFEST, seal(manifest))
    if final.exists():  # damaged, and passed over when this attempt of the run started
        shutil.rmtree(final)
    partial.rename(final)
    sync_folder(final.parent)
    write_text(final.parent / LATEST, final.name)

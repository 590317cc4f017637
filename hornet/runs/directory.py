"""runs/NAME: where a run keeps its config, numbers, images and checkpoints. Rank 0 writes."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeVar

from hornet import __version__
from hornet.config import Settings, resumable
from hornet.durable import read_json_lines, replace_non_finite, write_bytes, write_json, write_json_lines
from hornet.errors import UserError
from hornet.field_types import NameOrPath
from hornet.runs.begun import go_on_as_begun, refuse_changes, write_config
from hornet.runs.lock import Lock
from hornet.world import World

LIBRARIES = ("torch", "torchvision", "timm", "deepspeed", "webdataset", "accelerate", "numpy", "pillow")

Config = TypeVar("Config")
State = Literal["starting", "running", "stopped", "finished", "failed"]


@dataclass(frozen=True, kw_only=True)
class RunConfig(Settings):
    """What the run is called and what all its randomness follows from."""

    name: str
    """Folder below `root`; letters, digits, `_`, `-`, `.` and `/`."""
    root: Path = resumable(Path("runs"))
    """Where runs are kept, on a disk that all nodes share."""
    seed: int = 0
    """Order of the data, augmentation, initial weights, mixing and drop path all derive from it: any whole number."""
    branch_from: NameOrPath | None = resumable(None)
    """Another run of the same beginning, `runs/TRUNK` or `runs/TRUNK@STEP`, from whose checkpoint of that step, or its
    newest before a cooldown, the run starts, to be what it would be from step 0 on; null for step 0. For
    schedule.shape=wsd. Once the run has a checkpoint of its own, it goes on from that."""
    stop_at: datetime | None = resumable(None)
    """When to stop with a checkpoint: a time with its zone (2026-11-22T18:00:00+01:00) or seconds since 1970; null for
    never. The run stops earlier by its longest recent step and save, measured on rank 0's clock."""
    stall_seconds: float | None = resumable(1200)
    """A rank without progress for so long writes its stacks and ends the run; null waits for ever. Longer than the
    first step's compilation, a save or the reading of a checkpoint. The default lies above NCCL's own 600 s, whose
    report names the collective, and below gloo's 1800 s, which would end the run without stacks."""

    def _find_problems(self) -> Iterator[str]:
        # DeepSpeed reads checkpoint paths as patterns, so [ ] * ? would find other files than they name.
        if not re.fullmatch(r"[\w.-][\w./-]*", self.name):
            yield f"name: may hold letters, digits, _ - . and /, not {self.name!r}"
        elif ".." in (parts := Path(self.name).parts) or not parts:
            yield f"name: must name a folder below run.root, not {self.name!r}"
        if re.search(r"[\[\]*?]", str(self.root)):
            yield f"root: must not hold [ ] * or ?, as {self.root} does"
        if self.stop_at is not None and self.stop_at.tzinfo is None:
            yield f"stop_at: needs a time zone, such as {self.stop_at.isoformat()}+00:00"
        if self.stall_seconds is not None and self.stall_seconds <= 0:
            yield f"stall_seconds: must be above 0, or null, not {self.stall_seconds:g}"


class RunDirectory:
    """The files of one run. On ranks other than 0 the writing methods do nothing."""

    def __init__(self, config: RunConfig, *, world: World) -> None:
        self.config = config
        self.path = config.root.absolute() / config.name
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.skipped_batches = self.path / "skipped_batches.json"
        self.lock = Lock(self.path)
        self._world = world
        self._step = 0
        self._state: State | None = None

    def prepare(self, config: Any, *, has_checkpoint: bool) -> None:
        """Create the folder and write config.yaml and environment.json.

        Raises UserError if the run goes on from a checkpoint and `config` would change what is learned, naming the
        keys; or if the folder cannot be written.
        """
        if has_checkpoint:
            refuse_changes(config, self.path)
        if not self._world.is_main:
            return
        try:
            self.tensorboard.mkdir(parents=True, exist_ok=True)
            write_config(self.path, config)
            write_json(self.path / "environment.json", describe_environment(self._world))
        except OSError as error:
            raise UserError(f"{self.path}: the run directory cannot be written: {error.strerror}") from error

    def go_on_as_begun(self, config: Config) -> Config:
        """Return `config` with what its user left unwritten as this run was begun, and say where that differs.

        Raises UserError if a later release has written config.yaml.
        """
        config, lines = go_on_as_begun(config, self.path)
        if lines and self._world.is_main:
            print(f"{self.path}: was begun by an earlier release:\n  " + "\n  ".join(lines), flush=True)
        return config

    def write_recipe(self, audit: Mapping[str, Any]) -> None:
        """Write recipe.json: where the config departs from the published recipe that it names."""
        if self._world.is_main:
            with self._writing("recipe.json"):
                write_json(self.path / "recipe.json", audit)

    def write_status(self, state: State, *, step: int, **details: Any) -> None:
        """Replace status.json atomically; a change of state is an event too."""
        self._step = step
        if self._world.is_main:
            if state != self._state:
                self.append_event(state, step=step, **details)
            self._state = state
            content = {"state": state, "step": step, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **details}
            with self._writing("status.json"):
                write_json(self.path / "status.json", content)

    @contextmanager
    def failures_marked(self) -> Iterator[None]:
        """Write an error that ends the block into status.json, and let it pass."""
        try:
            yield
        except BaseException as error:
            with suppress(UserError):  # a full disk takes the status too; the error itself matters more
                self.lock.require()  # another job's status is not ours to replace
                self.write_status("failed", step=self._step, error=f"{type(error).__name__}: {error}")
            raise

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Add a line to NAME.jsonl."""
        if self._world.is_main:
            with self._writing(f"{name}.jsonl"):
                _append_line(self.path / f"{name}.jsonl", row)

    def append_event(self, event: str, *, step: int, **details: Any) -> None:
        """Add a line to events.jsonl, the diary of all attempts of the run: what happened, when, at which step."""
        self.append("events", {"time": time.time(), "event": event, "step": step, **details})

    def write_file(self, name: str, content: bytes) -> None:
        """Write a file of the run, such as images/filters.png, whole or not at all."""
        if self._world.is_main:
            with self._writing(name):
                path = self.path / name
                path.parent.mkdir(exist_ok=True)
                write_bytes(path, content)

    def append_bad_sample(self, bad_sample: Any) -> None:
        """Add a line to this rank's list of samples that could not be used; every rank has a file of its own."""
        folder = self.path / "bad_samples"
        with self._writing("bad_samples"):
            folder.mkdir(exist_ok=True)
            _append_line(folder / f"rank_{self._world.rank:05d}.jsonl", asdict(bad_sample))

    def forget_after(self, step: int) -> None:
        """Drop what an earlier attempt recorded beyond the checkpoint it goes on from; those steps are run again."""
        if not self._world.is_main:
            return
        for name in ("metrics", "norms", "evaluations"):
            self.rewrite(name, [row for row in self.read(name) if row["step"] <= step])

    def read(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of NAME.jsonl."""
        return read_json_lines(self.path / f"{name}.jsonl")

    def rewrite(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace the rows of NAME.jsonl, which stays absent without any."""
        path = self.path / f"{name}.jsonl"
        if self._world.is_main and (rows or path.exists()):
            with self._writing(path.name):
                write_json_lines(path, rows)

    def read_skipped_batches(self) -> list[dict[str, Any]]:
        """Return the rows of skipped_batches.json: windows of batches that the run leaves out."""
        if not self.skipped_batches.exists():
            return []
        try:
            rows: list[dict[str, Any]] = json.loads(self.skipped_batches.read_text())
        except ValueError as error:
            raise UserError(
                f"{self.skipped_batches}: is not JSON ({error}); mend it, it says which batches this run leaves out"
            ) from error
        return rows

    def write_skipped_batches(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace skipped_batches.json."""
        if self._world.is_main:
            with self._writing(self.skipped_batches.name):
                write_json(self.skipped_batches, list(rows))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json: the run is finished."""
        if self._world.is_main:
            with self._writing("summary.json"):
                write_json(self.path / "summary.json", summary)

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"{self.path / name}: cannot be written: {error.strerror}") from error


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Return the summary.json of a run directory, which only a finished run has; raises UserError if it is damaged."""
    path = folder / "summary.json"
    try:
        return json.loads(path.read_text()) if path.exists() else None
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({error}); move the file away to go on") from error


def describe_environment(world: World) -> dict[str, Any]:
    """Return what a reader needs to tell why two runs differ: versions, devices, code, command, world."""
    import torch  # seconds that a wrong config need not wait for

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "host": platform.node(),
        "hornet": __version__,
        "python": platform.python_version(),
        "libraries": {name: _find_version(name) for name in LIBRARIES},
        "git": _describe_git(),
        "gpus": gpus,
        "cpus": os.cpu_count(),
        "world": asdict(world),
    }


def _find_version(library: str) -> str | None:
    """Return its version; None if it is not installed, as what a run does not use need not be."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _describe_git() -> dict[str, Any] | None:
    """Return the commit of the code and whether it was changed since; None outside a git checkout."""
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit.stdout.strip(), "has_uncommitted_changes": bool(changed.stdout.strip())}


def _append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Add a line; what a full disk or a kill has left of the last one goes first, or the two would be one."""
    line = json.dumps(replace_non_finite(row), allow_nan=False) + "\n"
    with path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line.encode())

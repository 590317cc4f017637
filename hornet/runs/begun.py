"""What a run was begun with: its config.yaml, read whatever release wrote it, and what may change on a resume."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from hornet.config import build_config, flatten_values, list_settings, read_yaml, to_values, to_yaml
from hornet.durable import write_text
from hornet.errors import UserError
from hornet.formats import CONFIG, PROGRAM, REDEFINED, UNWRITTEN, describe_writer, put, read_run_values

Config = TypeVar("Config")

CONFIG_NAME = "config.yaml"
MARKS = ("status.json", CONFIG_NAME, "metrics.jsonl")
"""A folder with one of these is a run."""
ABSENT = "absent"


def find_run(source: Path) -> Path | None:
    """Return the run that a path is, or is a checkpoint in (runs/NAME/checkpoints/step_00000300); None if neither."""
    return next((folder for folder in (source, source.parent.parent) if (folder / CONFIG_NAME).exists()), None)


def is_run(folder: Path) -> bool:
    """Whether a folder is a run, if perhaps one that has lost files."""
    return any((folder / mark).is_file() for mark in MARKS)


def explain_no_run(folder: Path, *, expected: str) -> str:
    """Say that a folder is no run, and which one near it may be meant; without any, that `expected` is."""
    runs = [folder.parent] if is_run(folder.parent) else []
    runs += sorted({path.parent for mark in MARKS for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{mark}")})
    hint = f"did you mean {' or '.join(map(str, runs[:5]))}?" if runs else f"give {expected}"
    return f"is not a run: it holds neither {', '.join(MARKS[:-1])} nor {MARKS[-1]}; {hint}"


def write_config(folder: Path, config: Any) -> None:
    """Write config.yaml with every setting, below the format's number."""
    write_text(folder / CONFIG_NAME, to_yaml(config, header=CONFIG.header))


def read_run_config(folder: Path) -> dict[str, Any]:
    """Return the settings of a run by today's names; raises UserError if only another release can read them."""
    path = folder / CONFIG_NAME
    return read_run_values(read_yaml(path), source=str(path))


def go_on_as_begun(config: Config, folder: Path) -> tuple[Config, list[str]]:
    """Return `config` with what its user left unwritten as the run was begun, where that means something else today.

    With a line for each such setting. Without a config.yaml in `folder`, `config` as it is.
    """
    if not (folder / CONFIG_NAME).exists():
        return config, []
    earlier = _flatten_known(type(config), folder)
    settings = list_settings(type(config))
    values = to_values(config)
    now = dict(flatten_values(values, settings=settings))
    lines = []
    for key, meant in UNWRITTEN.items():
        if key not in now or settings[key].is_resumable:
            continue
        if now[key] == settings[key].default != meant == earlier.get(key, meant):
            put(values, key, meant)
            lines.append(f"{key}: goes on as {meant!r}, with which the run was begun; a new run has {now[key]!r}")
    for (key, value), meant in REDEFINED.items():
        if now.get(key) == value and earlier.get(key) == meant:
            put(values, key, meant)
            lines.append(f"{key}: goes on as {meant!r}, which is what {value!r} meant when the run was begun")
    return (build_config(type(config), values, source=str(folder / CONFIG_NAME)) if lines else config), lines


def refuse_changes(config: Any, folder: Path) -> None:
    """Raise UserError, naming the keys, if `config` departs from what the run was begun with."""
    changes = list_departures_from(config, folder)
    if changes:
        raise UserError(
            f"{folder}: this run was started with another config:\n  "
            + "\n  ".join(changes)
            + "\nundo the change to resume it, or choose another run.name to start a new run"
        )


def list_departures_from(config: Any, folder: Path) -> list[str]:
    """Return a line `key: 1 -> 2` for each key where `config` departs from the run in `folder`, as `list_changes`.

    Raises UserError for settings of that run that are not known.
    """
    return list_changes(config, _flatten_known(type(config), folder))


def list_changes(config: Any, earlier: Mapping[str, Any]) -> list[str]:
    """Return a line `key: 1 -> 2` for each key where `config` departs from a run's values (dotted keys).

    A key that the run was begun without counts as what it meant then. Those that are declared `resumable()` are left
    out.
    """
    settings = list_settings(type(config))
    now = dict(flatten_values(to_values(config), settings=settings))
    lines = []
    for key in sorted(now.keys() | earlier.keys()):
        before, after = earlier.get(key, ABSENT), now.get(key, ABSENT)
        if key not in earlier and not _has_null_section(key, earlier):
            meant = UNWRITTEN.get(key, settings[key].default)
            before = ABSENT if meant is dataclasses.MISSING else meant
        is_section = any(_is_section(key, values) for values in (now, earlier))
        if before != after and not is_section and not settings[key].is_resumable:
            lines.append(f"{key}: {before!r} -> {after!r}")
    return lines


def _flatten_known(config_class: type[Any], folder: Path) -> dict[str, Any]:
    """Return a run's values by dotted key.

    Raises UserError for a key that is neither known today nor in the table of those that were: it meant something.
    """
    path, settings = folder / CONFIG_NAME, list_settings(config_class)
    earlier = dict(flatten_values(read_run_config(folder), settings=settings))
    unknown = [f"{key}={value!r}" for key, value in earlier.items() if key not in settings]
    if unknown:
        raise UserError(
            f"{path}: holds {', '.join(unknown)}, which {PROGRAM} does not know; go on with "
            f"{describe_writer(read_yaml(path))}, or choose another run.name to start a new run"
        )
    return earlier


def _is_section(key: str, values: Mapping[str, Any]) -> bool:
    return any(other.startswith(f"{key}.") for other in values)


def _list_sections(key: str) -> Iterator[str]:
    parts = key.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts)))


def _has_null_section(key: str, values: Mapping[str, Any]) -> bool:
    return any(section in values for section in _list_sections(key))

"""The files of a run, as far as they are there and whole: whatever is damaged is said and left out, never raised."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hornet.errors import UserError
from hornet.runs.begun import explain_no_run, is_run
from hornet.runs.rows import Row, number

EXPECTED = "a run directory, such as runs/NAME"


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """All that the page is made of."""

    path: Path
    """The run directory."""
    config: str | None
    """config.yaml, as text."""
    environment: Row
    """environment.json; this and the next three are empty if missing or damaged."""
    status: Row
    """status.json."""
    summary: Row
    """summary.json, which only a finished run has."""
    recipe: Row
    """recipe.json, which only a run that names a published recipe has."""
    metrics: list[Row]
    """Rows of metrics.jsonl, by step."""
    norms: list[Row]
    """Rows of norms.jsonl, by step."""
    evaluations: list[Row]
    """Rows of evaluations.jsonl, by step."""
    suite: dict[str, Row]
    """evaluations/NAME/evaluation.json, what launch/evaluate.py wrote, by NAME."""
    events: list[Row]
    """Rows of events.jsonl, in the order of time."""
    dropped_steps: list[Row]
    """Rows of dropped_steps.jsonl."""
    skipped_batches: list[Row]
    """Rows of skipped_batches.json."""
    bad_samples: list[Row]
    """Rows of bad_samples/rank_*.jsonl."""
    images: list[Path]
    """images/*.png by name (pictures/*.png of runs before 0.2.0), unread."""
    beat: float | None
    """When the job at work here last touched owner.json, in unix seconds; None without one."""
    problems: list[str] = field(default_factory=list)
    """What could not be read, a sentence each."""


def read_run(path: Path) -> RunFiles:
    """Read a run directory; raises UserError if it is none."""
    if not path.is_dir():
        raise UserError(f"{path}: is not a folder; give {EXPECTED}")
    if not is_run(path):
        raise UserError(f"{path}: {explain_no_run(path, expected=EXPECTED)}")
    problems: list[str] = []

    def read_object(name: str) -> Row:
        value = _read(path / name, json.loads, problems, name=name)
        return value if isinstance(value, dict) else _complain(problems, name, value, {})

    def read_rows(name: str) -> list[Row]:
        return list(_read_lines(path / name, problems))

    skipped = _read(path / "skipped_batches.json", json.loads, problems)
    if not isinstance(skipped, list) or not all(isinstance(row, dict) for row in skipped):
        skipped = _complain(problems, "skipped_batches.json", skipped, [])
    return RunFiles(
        path=path,
        config=_read(path / "config.yaml", str, problems),
        environment=read_object("environment.json"),
        status=read_object("status.json"),
        summary=read_object("summary.json"),
        recipe=read_object("recipe.json"),
        metrics=_sort(read_rows("metrics.jsonl"), "step"),
        norms=_sort(read_rows("norms.jsonl"), "step"),
        evaluations=_sort(read_rows("evaluations.jsonl"), "step"),
        suite={
            file.parent.name: row
            for file in sorted(path.glob("evaluations/*/evaluation.json"))
            if (row := read_object(str(file.relative_to(path))))
        },
        events=_sort(read_rows("events.jsonl"), "time"),
        dropped_steps=read_rows("dropped_steps.jsonl"),
        skipped_batches=skipped,
        bad_samples=[
            row for file in sorted(path.glob("bad_samples/rank_*.jsonl")) for row in _read_lines(file, problems)
        ],
        images=sorted([*path.glob("images/*.png"), *path.glob("pictures/*.png")]),
        beat=(path / "owner.json").stat().st_mtime if (path / "owner.json").is_file() else None,
        problems=problems,
    )


def _read(path: Path, parse: Callable[[str], Any], problems: list[str], *, name: str | None = None) -> Any:
    """Return the parsed text of a file; None, noting why, if it is damaged, and None if it is absent."""
    try:
        return parse(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{name or path.name} cannot be read ({error}).")
        return None


def _complain(problems: list[str], name: str, value: Any, instead: Any) -> Any:
    if value is not None:
        problems.append(f"{name} does not hold what it should, and is left out.")
    return instead


def _read_lines(path: Path, problems: list[str]) -> Iterator[Row]:
    """Yield the rows of a JSON-lines file. A last line without its end is being written, or was cut by a kill."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return
    except OSError as error:
        problems.append(f"{path.name} cannot be read ({error}).")
        return
    num_damaged = 0
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield row
        else:
            num_damaged += 1
    if num_damaged:
        problems.append(f"{path.name}: {num_damaged} of {len(lines)} lines are damaged, and are left out.")


def _sort(rows: list[Row], key: str) -> list[Row]:
    """Return the rows that have a number there, in its order."""
    keyed = [(value, row) for row in rows if (value := number(row.get(key))) is not None]
    return [row for _, row in sorted(keyed, key=lambda pair: pair[0])]

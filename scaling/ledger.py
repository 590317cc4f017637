"""What each run was said to take before it began, and what it took: costs.json in the study's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from hornet.durable import write_json
from hornet.quantities import format_seconds
from scaling.config import Study
from scaling.state import read_records

FILE = "costs.json"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run will take."""

    seconds: float
    source: str
    """measured, by FLOPs (of other networks that were measured), or the name of a GPU."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Of one run, in seconds from the command to its exit."""

    planned: float | None = None
    """As it was estimated before the run began; None if nothing was known of its speed."""
    source: str | None = None
    """Of the estimate; see Cost."""
    took: float | None = None
    """Of all attempts that a runner of this study has seen end."""


def read_ledger(study: Study) -> dict[str, Entry]:
    """Return the entries by run."""
    return read_records(study.folder / FILE, Entry)


def write_planned(study: Study, costs: Mapping[str, Cost | None]) -> None:
    """Write down what runs that have not begun are said to take, by run, in the place of all that was there."""
    said = {
        run: Entry() if cost is None else Entry(planned=cost.seconds, source=cost.source) for run, cost in costs.items()
    }
    if said:
        _write(study, read_ledger(study) | said)


def add_taken(study: Study, run: str, seconds: float) -> None:
    """Write down that an attempt of a run has ended after `seconds`."""
    entries = read_ledger(study)
    before = entries.get(run, Entry())
    after = Entry(planned=before.planned, source=before.source, took=(before.took or 0.0) + seconds)
    _write(study, entries | {run: after})


def compare(pairs: Sequence[tuple[float, float]]) -> str:
    """Return a sentence on what runs were said to take and took, given as pairs of seconds."""
    planned, took = (sum(each) for each in zip(*pairs, strict=True))
    return (
        f"{len(pairs)} runs took {format_seconds(took)} and were said to take {format_seconds(planned)}, "
        f"{planned / took:.2f} of it"
    )


def _write(study: Study, entries: Mapping[str, Entry]) -> None:
    study.folder.mkdir(parents=True, exist_ok=True)
    write_json(study.folder / FILE, {run: asdict(entry) for run, entry in entries.items()})

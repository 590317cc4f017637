"""The lives of a run from its diary: when each began, where from, how it ended, what it cost."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from hornet.pages.run.files import Row, number

ENDS = ("stopped", "finished", "failed")


@dataclass(kw_only=True)
class Life:
    """One start of the run, to its end or the last sign of it."""

    start: float
    """Unix seconds."""
    first_step: int
    """Steps done when it began."""
    num_ranks: int | None
    """How many ranks took part; None if it never came so far."""
    last_sign: float
    """The last moment anything was heard of it, in unix seconds."""
    running: float | None = None
    """When its first step was done, in unix seconds; None if none was."""
    end: str | None = None
    """stopped, finished or failed; None if it is going on, or was killed."""
    reason: str = ""
    """Of a stop or failure."""
    last_step: int = 0
    """The last step it is known to have done."""
    saved: float
    """When the state was last saved, or set at the start, in unix seconds."""
    num_lost_steps: int = 0
    """Steps it did beyond its last checkpoint, which the next life did again."""
    num_rolled_back: int = 0
    """Steps it took back itself, to leave out batches."""

    @property
    def seconds(self) -> float:
        """From its start to its end."""
        return self.last_sign - self.start


def find_lives(events: Sequence[Row], metrics: Sequence[Row], *, step_seconds: float) -> list[Life]:
    """Split the diary into lives. Where a life was killed, it is taken to have lived until its lost steps were done.

    `step_seconds` is the usual time of a step.
    """
    lives: list[Life] = []
    for event in events:
        _tell(lives, event)
    _hear_metrics(lives, metrics)
    for life, following in pairwise(lives):
        if life.end is None and life.num_lost_steps:  # its last rows were dropped by the next life
            lived = life.saved + life.num_lost_steps * step_seconds
            life.last_sign = min(max(life.last_sign, lived), following.start)
    return lives


def _tell(lives: list[Life], event: Row) -> None:
    kind, time, step = event.get("event"), event["time"], int(number(event.get("step")) or 0)
    if kind == "starting" or not lives or (kind in ENDS and lives[-1].end is not None):
        ranks = number(event.get("num_ranks"))
        num_ranks = None if ranks is None else int(ranks)
        life = Life(start=time, first_step=step, num_ranks=num_ranks, last_sign=time, saved=time, last_step=step)
        if lives and kind == "starting":
            lives[-1].num_lost_steps = int(number(event.get("lost_steps")) or 0)
            lives[-1].last_step = max(lives[-1].last_step, step + lives[-1].num_lost_steps)
        lives.append(life)
    life = lives[-1]
    life.last_sign = max(life.last_sign, time)
    life.last_step = max(life.last_step, step)
    if kind == "running" and life.running is None:
        life.running = life.saved = time
    elif kind == "save":
        life.saved = time
    elif kind == "rollback":
        life.num_rolled_back += max(0, step - int(number(event.get("to_step")) or 0))
        life.saved = time
    elif kind in ENDS:
        life.end = str(kind)
        life.reason = str(event.get("reason") or event.get("error") or "")


def _hear_metrics(lives: Sequence[Life], metrics: Sequence[Row]) -> None:
    """Take each row of metrics as a sign of the life in which it was written."""
    starts = [life.start for life in lives]
    for row in metrics:
        time = number(row.get("time"))
        if time is None or (current := bisect_right(starts, time) - 1) < 0:
            continue
        life = lives[current]
        life.last_step = max(life.last_step, int(row["step"]))
        if life.end is None:
            life.last_sign = max(life.last_sign, time)

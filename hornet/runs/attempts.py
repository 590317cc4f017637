"""The attempts of a run from its diary: when each began, where from, how it ended, what it cost."""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from hornet.runs.rows import Row, column, number, present

ENDS = ("stopped", "finished", "failed")


@dataclass(kw_only=True)
class Attempt:
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
    """Steps it did beyond its last checkpoint, which the next attempt did again."""
    num_rolled_back: int = 0
    """Steps it took back itself, to leave out batches."""

    @property
    def seconds(self) -> float:
        """From its start to its end."""
        return self.last_sign - self.start


def find_step_seconds(metrics: Sequence[Row]) -> float:
    """Return the usual time of a step: the median row's; 0 without rows."""
    seconds = present(column(metrics, "step_seconds"))
    return statistics.median(seconds) if seconds else 0.0


def find_attempts(events: Sequence[Row], metrics: Sequence[Row], *, step_seconds: float) -> list[Attempt]:
    """Split the diary into attempts. One that was killed is taken to have lasted until its lost steps were done.

    `step_seconds` is the usual time of a step.
    """
    attempts: list[Attempt] = []
    for event in events:
        _tell(attempts, event)
    _hear_metrics(attempts, metrics)
    for attempt, following in pairwise(attempts):
        if attempt.end is None and attempt.num_lost_steps:  # its last rows were dropped by the next attempt
            lasted = attempt.saved + attempt.num_lost_steps * step_seconds
            attempt.last_sign = min(max(attempt.last_sign, lasted), following.start)
    return attempts


def _tell(attempts: list[Attempt], event: Row) -> None:
    kind, time, step = event.get("event"), event["time"], int(number(event.get("step")) or 0)
    if kind == "starting" or not attempts or (kind in ENDS and attempts[-1].end is not None):
        ranks = number(event.get("num_ranks"))
        num_ranks = None if ranks is None else int(ranks)
        attempt = Attempt(start=time, first_step=step, num_ranks=num_ranks, last_sign=time, saved=time, last_step=step)
        if attempts and kind == "starting":
            attempts[-1].num_lost_steps = int(number(event.get("lost_steps")) or 0)
            attempts[-1].last_step = max(attempts[-1].last_step, step + attempts[-1].num_lost_steps)
        attempts.append(attempt)
    attempt = attempts[-1]
    attempt.last_sign = max(attempt.last_sign, time)
    attempt.last_step = max(attempt.last_step, step)
    if kind == "running" and attempt.running is None:
        attempt.running = attempt.saved = time
    elif kind == "save":
        attempt.saved = time
    elif kind == "rollback":
        attempt.num_rolled_back += max(0, step - int(number(event.get("to_step")) or 0))
        attempt.saved = time
    elif kind in ENDS:
        attempt.end = str(kind)
        attempt.reason = str(event.get("reason") or event.get("error") or "")


def _hear_metrics(attempts: Sequence[Attempt], metrics: Sequence[Row]) -> None:
    """Take each row of metrics as a sign of the attempt in which it was written."""
    starts = [attempt.start for attempt in attempts]
    for row in metrics:
        time = number(row.get("time"))
        if time is None or (current := bisect_right(starts, time) - 1) < 0:
            continue
        attempt = attempts[current]
        attempt.last_step = max(attempt.last_step, int(row["step"]))
        if attempt.end is None:
            attempt.last_sign = max(attempt.last_sign, time)

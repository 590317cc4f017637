"""Where the time of a run went, over all its lives."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from hornet.pages.run.attempts import Life
from hornet.pages.run.files import Row, column, number, present

PHASES = {
    "data_seconds": "waiting for data",
    "forward_seconds": "forward",
    "backward_seconds": "backward",
    "optimizer_seconds": "optimizer",
}
REST_OF_STEP = "rest of the step"
SAVES = "saves"
EVALUATIONS = "evaluations"
START_UP = "start-up"
LOST_WORK = "lost work"
OTHER = "other"


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The seconds of a run by what they were spent on."""

    total_seconds: float
    """All lives together; between two lives no time is counted."""
    parts: dict[str, float]
    """Seconds by name, nothing twice; `other` is what is left of the total."""


def find_step_seconds(metrics: Sequence[Row]) -> float:
    """Return the usual time of a step: the median row's; 0 without rows."""
    seconds = present(column(list(metrics), "step_seconds"))
    return statistics.median(seconds) if seconds else 0.0


def split_time(lives: Sequence[Life], metrics: Sequence[Row], events: Sequence[Row]) -> Timing:
    """Split the time of all lives.

    A row of metrics stands for the steps since the row before. Steps that were lost, of which no rows are left, are
    counted with the usual time of a step.
    """
    usual = find_step_seconds(metrics)
    parts = dict.fromkeys((*PHASES.values(), REST_OF_STEP), 0.0)
    done = 0
    for row in metrics:
        num_steps, done = int(row["step"]) - done, int(row["step"])
        of_step = number(row.get("step_seconds")) or 0.0
        of_phases = {name: number(row.get(key)) or 0.0 for key, name in PHASES.items()}
        for name, seconds in of_phases.items():
            parts[name] += num_steps * seconds
        parts[REST_OF_STEP] += num_steps * max(0.0, of_step - sum(of_phases.values()))
    parts[SAVES] = _sum_seconds(events, "save")
    parts[EVALUATIONS] = _sum_seconds(events, "evaluate")
    parts[START_UP] = sum(_measure_start_up(life, metrics, events, usual=usual) for life in lives)
    parts[LOST_WORK] = usual * sum(life.num_lost_steps + life.num_rolled_back for life in lives)
    total = sum(life.seconds for life in lives)
    parts[OTHER] = max(0.0, total - sum(parts.values()))
    return Timing(total_seconds=total, parts=parts)


def _sum_seconds(events: Sequence[Row], kind: str) -> float:
    return sum(number(event.get("seconds")) or 0.0 for event in events if event.get("event") == kind)


def _measure_start_up(life: Life, metrics: Sequence[Row], events: Sequence[Row], *, usual: float) -> float:
    """Return the time before the first step of a life; the whole life if it never came so far."""
    end = life.last_sign if life.running is None else life.running
    within = [event for event in events if life.start <= event["time"] <= end]
    seconds = end - life.start - _sum_seconds(within, "save") - _sum_seconds(within, "evaluate")
    if life.running is not None:
        seconds -= _estimate_first_step(life, metrics, usual=usual)
    return max(0.0, seconds)


def _estimate_first_step(life: Life, metrics: Sequence[Row], *, usual: float) -> float:
    """Return the time of a life's first step: what its first row took beyond as many usual steps less one."""
    for row in metrics:
        num_steps = int(row["step"]) - life.first_step
        if num_steps < 1:
            continue
        time, seconds = number(row.get("time")), number(row.get("step_seconds"))
        if time is None or seconds is None or not life.start <= time <= life.last_sign:
            break
        return max(0.0, num_steps * seconds - (num_steps - 1) * usual)
    return usual

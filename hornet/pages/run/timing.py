"""Where the time of a run went, over all its attempts."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from hornet.runs.attempts import Attempt, find_step_seconds
from hornet.runs.rows import Row, number

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


def split_time(attempts: Sequence[Attempt], metrics: Sequence[Row], events: Sequence[Row]) -> dict[str, float]:
    """Return the seconds of all attempts by what they were spent on; between two attempts no time is counted.

    Nothing is counted twice; `other` is what is left of the total. A row of metrics stands for the steps since the row
    before. Steps that were lost, of which no rows are left, are counted with the usual time of a step. `metrics` are in
    the order of their steps, `events` of their times.
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
    parts[START_UP] = sum(_measure_start_up(attempt, metrics, events, usual=usual) for attempt in attempts)
    parts[LOST_WORK] = usual * sum(attempt.num_lost_steps + attempt.num_rolled_back for attempt in attempts)
    total = sum(attempt.seconds for attempt in attempts)
    parts[OTHER] = max(0.0, total - sum(parts.values()))
    return parts


def _sum_seconds(events: Sequence[Row], kind: str) -> float:
    return sum(number(event.get("seconds")) or 0.0 for event in events if event.get("event") == kind)


def _measure_start_up(attempt: Attempt, metrics: Sequence[Row], events: Sequence[Row], *, usual: float) -> float:
    """Return the time before the first step of an attempt; the whole attempt if it never came so far."""
    end = attempt.last_sign if attempt.running is None else attempt.running
    # A run of a million steps may have hundreds of attempts: none of them looks at all rows.
    within = events[bisect_left(events, attempt.start, key=_get_time) : bisect_right(events, end, key=_get_time)]
    seconds = end - attempt.start - _sum_seconds(within, "save") - _sum_seconds(within, "evaluate")
    if attempt.running is not None:
        seconds -= _estimate_first_step(attempt, metrics, usual=usual)
    return max(0.0, seconds)


def _estimate_first_step(attempt: Attempt, metrics: Sequence[Row], *, usual: float) -> float:
    """Return the time of an attempt's first step: what its first row took beyond as many usual steps less one."""
    first = bisect_right(metrics, attempt.first_step, key=_get_step)
    if first == len(metrics):
        return usual
    row = metrics[first]
    num_steps = _get_step(row) - attempt.first_step
    time, seconds = number(row.get("time")), number(row.get("step_seconds"))
    if time is None or seconds is None or not attempt.start <= time <= attempt.last_sign:
        return usual
    return max(0.0, num_steps * seconds - (num_steps - 1) * usual)


def _get_time(event: Row) -> float:
    time: float = event["time"]
    return time


def _get_step(row: Row) -> int:
    return int(row["step"])

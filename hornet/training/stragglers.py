"""Which rank the others wait for.

Every rank's step lasts equally long, since each waits for all in the gradients' reduction. What differs is the time
before: fetching its batches, and the forward pass.
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hornet.training.process_group import gather_from_all
from hornet.training.step_clock import StepClock

SLOW_FACTOR = 1.2
"""Above this multiple of the median rank's time a rank is slow."""

NUM_REPORTS = 3
"""Reports running in which the same rank must be slow before it is named; once may be chance."""


@dataclass(frozen=True, kw_only=True)
class Slowest:
    """The rank that was busy longest."""

    rank: int
    """Its global rank, 0-based."""
    over_median: float
    """Its time over the median of the others'; 1 where there are none."""


@dataclass(frozen=True, kw_only=True)
class StragglerReport:
    """What the ranks' times of one report come to."""

    fields: dict[str, Any]
    """For a row of metrics."""
    warning: str | None
    """For people, if a rank has been slow for long."""


class Stragglers:
    """Compares the ranks' busy time from report to report. Collective, the constructor too."""

    def __init__(self, clock: StepClock) -> None:
        self._clock = clock
        self._hosts = gather_from_all(platform.node())
        self._slow_rank: int | None = None
        self._num_reports = 0

    def report(self, *, num_steps: int, step_seconds: float) -> StragglerReport:
        """Compare the `num_steps` steps since the last report, which took `step_seconds` in all here. Collective."""
        seconds = {**self._clock.take(), "step": step_seconds}
        times = gather_from_all({phase: taken / num_steps for phase, taken in seconds.items()})
        busy = [of_rank["data"] + of_rank["forward"] for of_rank in times]
        slowest = find_slowest(busy)
        slow_rank = slowest.rank if slowest.over_median > SLOW_FACTOR else None
        self._num_reports = self._num_reports + 1 if slow_rank == self._slow_rank else 1
        self._slow_rank = slow_rank
        warning = None
        if slow_rank is not None and self._num_reports % NUM_REPORTS == 0:
            slow = times[slow_rank]
            warning = (
                f"straggler: rank {slow_rank} on {self._hosts[slow_rank]} took {slowest.over_median:.2f} x the other "
                f"ranks' median time for {self._num_reports} reports running: {slow['data']:.3f} s for data and "
                f"{slow['forward']:.3f} s for the forward pass, a step"
            )
        return StragglerReport(
            fields={
                **{f"{phase}_seconds": statistics.fmean(of_rank[phase] for of_rank in times) for phase in times[0]},
                "busy_seconds": statistics.median(busy),
                "slowest_rank": slowest.rank,
                "slowest_over_median": slowest.over_median,
            },
            warning=warning,
        )


def find_slowest(busy_seconds: Sequence[float]) -> Slowest:
    """Return the rank (the first of equals) that was busy longest.

    It is compared with the others: of two ranks the median would be half its own.
    """
    rank = busy_seconds.index(max(busy_seconds))
    others = [*busy_seconds[:rank], *busy_seconds[rank + 1 :]]
    median = statistics.median(others) if others else 0.0
    return Slowest(rank=rank, over_median=busy_seconds[rank] / median if median > 0 else 1.0)

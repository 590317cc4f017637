"""What checkpoints take on disk, and whether a run can be stopped in time and go on: sizes, seconds, attempts."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from hornet.planning.question import Question
from hornet.quantities import FP32_BYTES
from hornet.training.config import RetentionConfig

SPARE_SECONDS = 30
"""Beyond two steps and two saves: SLURM's own delay, and the end of all processes (docs/slurm.md)."""


@dataclass(frozen=True, kw_only=True)
class CheckpointPlan:
    """What checkpoints take on disk, and how long writing one takes."""

    num_bytes: int
    """Bytes of one checkpoint, over all ranks."""
    save_seconds: float
    """Until one is on disk, at the disk's rate."""
    num_kept: int
    """At the end of the run."""
    disk_bytes: int
    """At most: those kept, and the one being written."""


@dataclass(frozen=True, kw_only=True)
class AttemptPlan:
    """Jobs in a row that make up the run."""

    num_attempts: int
    """Jobs until the run is finished."""
    needed_lead_seconds: float
    """How long before the limit the signal must come: two of the longest steps, two saves and SPARE_SECONDS."""


def plan_checkpoints(
    num_parameters: int,
    *,
    stage: int,
    has_ema: bool,
    retention: RetentionConfig,
    num_steps: int,
    save_every_steps: int,
    question: Question,
) -> CheckpointPlan:
    """Return what checkpoints take: weights, two moments and the average; stages 1 and 2 write master weights too."""
    num_bytes = FP32_BYTES * num_parameters * (3 + has_ema + (stage in (1, 2)))
    num_saved = ceil(num_steps / save_every_steps)
    newest = min(retention.newest, num_saved)
    for_good = 0
    if retention.every_steps is not None:
        saved = {*range(save_every_steps, num_steps, save_every_steps), num_steps}
        for_good = sum(step % retention.every_steps == 0 for step in sorted(saved)[:-newest])
    num_kept = newest + for_good + (retention.best and num_saved > newest)
    return CheckpointPlan(
        num_bytes=num_bytes,
        save_seconds=num_bytes / (question.disk_gb_per_second * 1e9),
        num_kept=num_kept,
        disk_bytes=(num_kept + 1) * num_bytes,
    )


def plan_attempts(
    *, train_hours: float, longest_step_seconds: float, save_seconds: float, question: Question
) -> AttemptPlan | None:
    """Return how many jobs the run takes under the time limit; None without one."""
    if question.time_limit_hours is None:
        return None
    usable = question.time_limit_hours * 3600 - question.lead_seconds - question.start_seconds
    return AttemptPlan(
        num_attempts=ceil(train_hours * 3600 / usable) if usable > 0 else 0,
        needed_lead_seconds=2 * longest_step_seconds + 2 * save_seconds + SPARE_SECONDS,
    )


def explain_limit(attempts: AttemptPlan, question: Question) -> str | None:
    """Return the sentence that says why the run cannot go on over several jobs, None if it can."""
    if attempts.num_attempts == 0:
        return (
            f"time limit: {question.time_limit_hours:g} h leave no time to train, after {question.start_seconds:g} s "
            f"to start and {question.lead_seconds:g} s to stop; ask for longer jobs"
        )
    if attempts.num_attempts > 1 and question.lead_seconds < attempts.needed_lead_seconds:
        needed = ceil(attempts.needed_lead_seconds)
        return (
            f"signal lead: {question.lead_seconds:g} s are too short for two of the longest steps and two saves, which "
            f"take {needed} s; submit with --signal=B:USR1@{needed} and plan with --signal-lead {needed}"
        )
    return None

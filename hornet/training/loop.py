"""The training loop both stages share, and the Protocol of the engine that hides micro steps, precision and ZeRO."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from hornet.batch import Batch
from hornet.config import resumable
from hornet.training.norms import NormWatch
from hornet.training.schedule import Schedule
from hornet.training.step_clock import StepClock

Weights = Literal["raw", "ema"]

# Called once a step, before the weights change, with this rank's mean loss (0-dim, on the device) and the whole
# gradient's norm; False drops the step. Collective: every rank gets the same answer. Not asked where the gradient is
# not finite: such a step is always dropped.
Judge = Callable[[Tensor, float], bool]


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one optimizer step reports, before any reduction over ranks."""

    loss: Tensor
    """0-dim: mean loss over this rank's share of the global batch, on the device."""
    grad_norm: float
    """Norm of the whole gradient before clipping, the same on every rank."""
    was_applied: bool
    """False if the step was dropped, on every rank alike: the gradient was not finite, or the judge said no."""


class Writer(Protocol):
    """Takes what is to be written."""

    def take(self, path: Path, state: Any) -> None:
        """Note that `state`, tensors and plain values in containers, is to be written to `path`, as it is now."""
        ...


class Engine(Protocol):
    """One way to run a model over ranks. All methods are collective."""

    clock: StepClock
    """Times what `run_step` does; its user adds the time spent on data."""
    norms: NormWatch
    """Measures what the optimizer steps."""

    def run_step(self, batches: Sequence[Batch], *, step: int, lr: float, judge: Judge) -> StepResult:
        """Forward and backward over each micro batch, then one optimizer step if `judge` accepts it."""
        ...

    def save(self, folder: Path, writer: Writer) -> None:
        """Give this rank's part of the state to `writer`, as files of the existing `folder`."""
        ...

    def load(self, folder: Path) -> None:
        """Restore the state that `save` gave; raise UserError on all ranks if it does not fit."""
        ...

    def evaluation_model(self, weights: Weights) -> AbstractContextManager[nn.Module]:
        """Lend a model in eval mode that holds the raw or the averaged weights, for the length of a block."""
        ...

    def read_parameters(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return whole parameters as fp32 CPU tensors."""
        ...


@dataclass(kw_only=True)
class RunState:
    """What a run is besides its weights and optimizer. Everything else follows from the step."""

    step: int = 0
    """Optimizer steps done."""
    num_bad_samples: int = 0
    """Samples replaced so far, over all ranks."""
    num_skipped_steps: int = 0
    """Steps that were dropped."""
    num_dropped_in_a_row: int = 0
    """Of them, those since the last step that was not."""
    recent_losses: list[float] = field(default_factory=list)
    """Mean losses over all ranks of the last steps that were not dropped: what the guard compares with."""
    recent_norms: list[float] = field(default_factory=list)
    """Their gradient norms."""
    skipped_batches: list[list[int]] = field(default_factory=list)
    """Windows [first, stop) of data steps that are left out (hornet/training/data_steps.py)."""


@dataclass(frozen=True, kw_only=True)
class CadenceConfig:
    """How often the run speaks, saves and is measured; none of it changes what is learned."""

    log_every_steps: int = resumable(10)
    """Steps between lines of metrics.jsonl."""
    save_every_steps: int = resumable(1000)
    """Steps between checkpoints; the last step is always saved."""
    evaluate_every_steps: int | None = resumable(None)
    """Steps between evaluations; null evaluates only at the end."""
    norms_every_steps: int | None = resumable(100)
    """Steps between norms of gradient and weights by part of the network; null for none."""
    pictures_every_steps: int | None = resumable(None)
    """Steps between pictures in TensorBoard (augmented images, GF filters); null draws at the start and the end."""

    def __post_init__(self) -> None:
        for name in ("log_every_steps", "save_every_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, not {getattr(self, name)}")
        for name in ("evaluate_every_steps", "norms_every_steps", "pictures_every_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be at least 1, or null, not {value}")


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One finished step, as the loop hands it to the recorder."""

    step: int
    """1-based: the number of steps done."""
    lr: float
    """Learning rate the step used."""
    result: StepResult
    """What the engine reported."""
    batches: Sequence[Batch]
    """This rank's micro batches."""
    data_seconds: float
    """Time this rank waited for its batches."""
    step_seconds: float
    """Time of the whole step, waiting included."""


class Recorder(Protocol):
    """Keeps the numbers of a run. Collective."""

    def record(self, record: StepRecord, state: RunState, *, is_logged: bool) -> None:
        """Take note of a step; raise UserError if the run must not go on (bad samples above the budget)."""
        ...


class Guard(Protocol):
    """Decides whether a step counts. Collective."""

    def judge(self, loss: Tensor, grad_norm: float) -> bool:
        """See Judge."""
        ...

    def review(self, record: StepRecord, state: RunState) -> None:
        """Take note of what became of a step; raise if the run must not go on like this."""
        ...


class Wish(enum.Enum):
    """What someone outside asks of a run between two steps."""

    GO_ON = "go on"
    SAVE = "save"
    STOP = "stop"


def train(
    *,
    engine: Engine,
    batches: Iterator[Batch],
    num_micro_steps: int,
    state: RunState,
    schedule: Schedule,
    cadence: CadenceConfig,
    guard: Guard,
    recorder: Recorder,
    look_around: Callable[[RunState], Wish],
    save: Callable[[RunState], None],
    evaluate: Callable[[RunState], None],
    draw: Callable[[RunState, Sequence[Batch]], None],
) -> bool:
    """Run the steps `state.step .. schedule.num_steps`; `batches` starts at the first of them.

    `look_around` is called after every step, on every rank, with the same answer; `save`, `evaluate` and `draw`
    (pictures) at their cadence. Returns whether the run is finished: False if it was asked to stop.
    """
    for step in range(state.step, schedule.num_steps):
        started = time.perf_counter()
        micro_batches = list(islice(batches, num_micro_steps))
        fetched = time.perf_counter()
        lr = schedule.lr_at(step)
        result = engine.run_step(micro_batches, step=step, lr=lr, judge=guard.judge)
        state.step = step + 1
        state.num_skipped_steps += not result.was_applied
        record = StepRecord(
            step=state.step,
            lr=lr,
            result=result,
            batches=micro_batches,
            data_seconds=fetched - started,
            step_seconds=time.perf_counter() - started,
        )
        guard.review(record, state)
        is_last = state.step == schedule.num_steps
        wish = look_around(state)
        is_saved = is_last or wish is not Wish.GO_ON or _is_due(state.step, cadence.save_every_steps)
        # Saved steps are logged too: sums start afresh there, so a resumed run's rows equal an undisturbed one's.
        recorder.record(record, state, is_logged=is_saved or _is_due(state.step, cadence.log_every_steps))
        if is_last or step == 0 or _is_due(state.step, cadence.pictures_every_steps):
            draw(state, micro_batches)
        if is_saved:
            save(state)
        if is_evaluation_due(state.step, schedule=schedule, cadence=cadence):
            evaluate(state)
        if wish is Wish.STOP and not is_last:
            return False
    return True


def is_evaluation_due(step: int, *, schedule: Schedule, cadence: CadenceConfig) -> bool:
    """Return whether the weights after `step` steps are to be evaluated."""
    return step == schedule.num_steps or (step > 0 and _is_due(step, cadence.evaluate_every_steps))


def _is_due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0

"""The training loop both stages share, and the Protocol of the engine that hides micro steps, precision and ZeRO."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from hornet.batch import Batch
from hornet.training.checkpoints.state import RunState
from hornet.training.config import CadenceConfig, Weights
from hornet.training.norms import NormWatch
from hornet.training.schedule import PolySchedule, Schedule
from hornet.training.step_clock import StepClock

# Called exactly once a step, before the weights change, with this rank's mean loss (0-dim, on the device) and the whole
# gradient's norm; False drops the step. A step whose norm is not finite is dropped whatever the answer. Collective:
# every rank gets the same answer.
Accept = Callable[[Tensor, float], bool]


# Called with the model, a micro batch and a seed for every random draw on the device; returns the mean loss.
ComputeLoss = Callable[[nn.Module, Batch, int], Tensor]


@dataclass(frozen=True, kw_only=True)
class StepMessage:
    """What the ranks tell each other once a step, as every rank knows it then."""

    mean_loss: float
    """Mean over ranks."""
    grad_norm: float
    """Mean over ranks: each has the same norm, but not for certain in its last bits."""
    num_bad_samples: int
    """Samples of the step that were replaced, on all ranks."""


# Called with this rank's loss and gradient norm and the step's micro batches. Collective.
Exchange = Callable[[float, float, Sequence[Batch]], StepMessage]


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one optimizer step reports, before any reduction over ranks."""

    loss: Tensor
    """0-dim: mean loss over this rank's share of the global batch, on the device."""
    grad_norm: float
    """Norm of the whole gradient before clipping, the same on every rank."""
    was_applied: bool
    """False if the step was dropped, on every rank alike: the gradient was not finite, or the guard said no."""


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

    def run_step(self, batches: Sequence[Batch], *, step: int, lr: float, accept: Accept) -> StepResult:
        """Forward and backward over each micro batch, then one optimizer step if `accept` accepts it."""
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
        """Return whole parameters (fp32) or buffers (of their own type) as CPU tensors."""
        ...


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One finished step, as the loop hands it to the recorder."""

    step: int
    """1-based: the number of steps done."""
    lr: float
    """Learning rate the step used."""
    result: StepResult
    """What the engine reported, before any reduction over ranks."""
    mean_loss: float
    """Over all ranks."""
    batches: Sequence[Batch]
    """This rank's micro batches, in the order they were trained on."""
    step_seconds: float
    """Time of the whole step on this rank, waiting included."""


class Recorder(Protocol):
    """Keeps the numbers of a run. Collective."""

    def record(self, record: StepRecord, state: RunState, *, is_logged: bool) -> None:
        """Take note of a step; raise UserError if the run must not go on (bad samples above the budget)."""
        ...


class Guard(Protocol):
    """Decides whether a step counts, on what all ranks know."""

    window_steps: int
    """How many of the last steps it compares with."""

    def accepts(self, message: StepMessage) -> bool:
        """Return whether the step may change the weights."""
        ...

    def review(self, record: StepRecord, state: RunState) -> None:
        """Write down a step that was dropped; raise if the run must not go on like this. Collective."""
        ...


class Request(enum.Enum):
    """What someone outside asks of a run between two steps."""

    GO_ON = "go on"
    SAVE = "save"
    STOP = "stop"


def train(
    *,
    engine: Engine,
    batches: Iterator[Sequence[Batch]],
    exchange: Exchange,
    state: RunState,
    schedule: Schedule | PolySchedule,
    cadence: CadenceConfig,
    guard: Guard,
    recorder: Recorder,
    check_requests: Callable[[RunState], Request],
    save: Callable[[RunState], None],
    evaluate: Callable[[RunState], None],
    render: Callable[[RunState, Sequence[Batch]], None],
) -> bool:
    """Run the steps `state.step .. schedule.num_steps`; `batches` yields those of a step, from the first of them on.

    `exchange` and `check_requests` are called in every step, on every rank, with the same answers; `save`, `evaluate`
    and `render` (images) at their cadence. Returns whether the run is finished: False if it was asked to stop.
    """
    for step in range(state.step, schedule.num_steps):
        started = time.perf_counter()
        micro_batches = next(batches)
        messages: list[StepMessage] = []

        def accept(
            loss: Tensor, norm: float, batches: Sequence[Batch] = micro_batches, told: list[StepMessage] = messages
        ) -> bool:
            told.append(exchange(float(loss), norm, batches))
            return guard.accepts(told[-1])

        lr = schedule.lr_at(step)
        result = engine.run_step(micro_batches, step=step, lr=lr, accept=accept)
        (message,) = messages
        state.count(message, result, window_steps=guard.window_steps)
        record = StepRecord(
            step=state.step,
            lr=lr,
            result=result,
            mean_loss=message.mean_loss,
            batches=micro_batches,
            step_seconds=time.perf_counter() - started,
        )
        guard.review(record, state)
        is_last = state.step == schedule.num_steps
        request = check_requests(state)
        is_saved = is_last or request is not Request.GO_ON or _is_due(state.step, cadence.save_every_steps)
        # Saved steps are logged too: sums start afresh there, so a resumed run's rows equal an undisturbed one's.
        recorder.record(record, state, is_logged=is_saved or _is_due(state.step, cadence.log_every_steps))
        if is_last or step == 0 or _is_due(state.step, cadence.images_every_steps):
            render(state, micro_batches)
        if is_saved:
            save(state)
        if is_evaluation_due(state.step, schedule=schedule, cadence=cadence):
            evaluate(state)
        if request is Request.STOP and not is_last:
            return False
    return True


def is_evaluation_due(step: int, *, schedule: Schedule | PolySchedule, cadence: CadenceConfig) -> bool:
    """Return whether the weights after `step` steps are to be evaluated."""
    return step == schedule.num_steps or (step > 0 and _is_due(step, cadence.evaluate_every_steps))


def _is_due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0

"""The guard: drops steps whose numbers are not finite or far from the last ones, and records their samples.

Not here: going back to an earlier checkpoint (rollback.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from hornet.runs.directory import RunDirectory
from hornet.training.checkpoints.state import RunState
from hornet.training.config import GuardConfig
from hornet.training.data_steps import data_step_of
from hornet.training.loop import StepMessage, StepRecord
from hornet.training.process_group import errors_shared, gather_from_all
from hornet.world import World

MIN_RELATIVE_SIGMA = 0.01
"""Sigma counts as at least this share of the mean. See `find_spike`."""


@dataclass(frozen=True, kw_only=True)
class Objection:
    """Why a step is dropped."""

    reason: Literal["gradient not finite", "loss not finite", "spike of the loss", "spike of the gradient norm"]
    """Which of the four things was found."""
    value: float
    """Of the loss or norm that was found."""
    mean: float | None = None
    """Of the last steps, for a spike."""
    sigma: float | None = None
    """Standard deviation of the last steps, for a spike."""


class DroppedInARowError(Exception):
    """Too many steps in a row were dropped: the run must not go on like this. Raised on every rank alike."""

    def __init__(self, state: RunState) -> None:
        super().__init__(f"step {state.step}: {state.num_dropped_in_a_row} steps in a row were dropped")
        self.state = state

    @property
    def first_step(self) -> int:
        """The first dropped step of the row, 0-based."""
        return self.state.step - self.state.num_dropped_in_a_row


class NumericalGuard:
    """The run's guard, as hornet.training.loop.Guard describes it.

    What it compares with is in RunState, so a resumed run decides as an undisturbed one. It decides on means over all
    ranks, so that all decide alike.
    """

    def __init__(self, config: GuardConfig, *, run: RunDirectory, state: RunState, world: World) -> None:
        self.window_steps = config.window_steps
        self._config = config
        self._run = run
        self._state = state
        self._world = world
        self._objection: Objection | None = None

    def accepts(self, message: StepMessage) -> bool:
        """See hornet.training.loop.Guard."""
        self._objection = self._find_objection(message.mean_loss, message.grad_norm)
        return self._objection is None

    def review(self, record: StepRecord, state: RunState) -> None:
        """See hornet.training.loop.Guard. Raises DroppedInARowError."""
        if self._objection is None:
            return
        self._write_down(record, self._objection)
        if state.num_dropped_in_a_row >= self._config.max_dropped_in_a_row:
            raise DroppedInARowError(state)

    def _find_objection(self, loss: float, norm: float) -> Objection | None:
        if not math.isfinite(norm):
            return Objection(reason="gradient not finite", value=norm)
        if not math.isfinite(loss):
            return Objection(reason="loss not finite", value=loss)
        spike = find_spike("spike of the loss", loss, self._state.recent_losses, config=self._config)
        if spike is not None or self._is_norm_the_weights_own():
            return spike
        return find_spike("spike of the gradient norm", norm, self._state.recent_norms, config=self._config)

    def _is_norm_the_weights_own(self) -> bool:
        """Whether so many batches were dropped that a high norm, at weights that have not changed, is no batch's."""
        limit = self._config.max_norm_spikes_in_a_row
        return limit is not None and self._state.num_dropped_in_a_row >= limit

    def _write_down(self, record: StepRecord, objection: Objection) -> None:
        keys = gather_from_all([key for batch in record.batches for key in batch.keys])
        row = {
            "step": record.step,
            "data_step": data_step_of(record.step - 1, self._state.skipped_batches),
            **asdict(objection),
            "loss": record.mean_loss,
            "grad_norm": record.result.grad_norm,
            "keys": [key for of_rank in keys for key in of_rank],
        }
        with errors_shared():
            self._run.append("dropped_steps", row)
        if self._world.is_main:
            print(f"step {record.step}: dropped: {describe_objection(objection)}", flush=True)


def find_spike(
    reason: Literal["spike of the loss", "spike of the gradient norm"],
    value: float,
    recent: Sequence[float],
    *,
    config: GuardConfig,
) -> Objection | None:
    """Return an objection to a value far above the recent ones; None until half of `window_steps` are there.

    Sigma is that of the recent values, but at least 1 % of their mean: where they hardly differ (a model that has
    learned its set, the same few batches again and again) six times next to nothing would drop harmless steps.
    """
    if config.spike_sigmas is None or len(recent) < max(2, config.window_steps // 2):
        return None
    mean = math.fsum(recent) / len(recent)
    sigma = math.sqrt(math.fsum((other - mean) ** 2 for other in recent) / len(recent))
    sigma = max(sigma, MIN_RELATIVE_SIGMA * abs(mean))
    if value <= mean + config.spike_sigmas * sigma:
        return None
    return Objection(reason=reason, value=value, mean=mean, sigma=sigma)


def describe_objection(objection: Objection) -> str:
    """Return an objection in words."""
    if objection.mean is None:
        return objection.reason
    return (
        f"{objection.reason}: {objection.value:.4g}, the last steps had {objection.mean:.4g} +- {objection.sigma:.2g}"
    )

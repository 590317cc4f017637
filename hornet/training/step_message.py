"""The one message that ranks exchange in a step: losses, bad samples, requests from outside, whether all have data.

It comes when the gradient is known and the weights have not changed yet. By then each rank has fetched its batches of
the next step, so an error of one rank's data is known to all before that step is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import torch

from hornet.batch import Batch
from hornet.training.interruption import REASONS, Interruption
from hornet.training.loop import StepMessage
from hornet.training.process_group import raise_together, sum_over_ranks
from hornet.training.step_clock import StepClock
from hornet.world import World


class Feed:
    """Yields this rank's micro batches of step after step; they are fetched a step ahead."""

    def __init__(self, batches: Iterator[Batch], *, num_micro_steps: int, clock: StepClock) -> None:
        """Count the time spent fetching as `clock`'s data."""
        self._batches = batches
        self._num_micro_steps = num_micro_steps
        self._clock = clock
        self._next: list[Batch] = []
        self._error: Exception | None = None
        self._is_agreed = False

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> Sequence[Batch]:
        """Return a step's micro batches. Collective where the ranks have not agreed that all have theirs.

        Raises on every rank alike what any rank met while fetching.
        """
        if not self._is_agreed:
            self.fetch()
            raise_together(self._error)
        if not self._next:
            raise StopIteration
        taken, self._next, self._is_agreed = self._next, [], False
        return taken

    def fetch(self) -> bool:
        """Fetch the next step's batches, if they are not there; an error is kept. Return whether it went well."""
        if not self._next and self._error is None:
            try:
                with self._clock.measure("data"):
                    self._next = list(islice(self._batches, self._num_micro_steps))
            except Exception as error:
                self._error = error
        return self._error is None

    def agree(self) -> None:
        """Take note that all ranks have fetched their batches."""
        self._is_agreed = True


class StepExchange:
    """Sends and reads the message; see hornet.training.loop.Exchange."""

    def __init__(
        self, feed: Feed, interruption: Interruption, *, get_save_seconds: Callable[[], float], world: World
    ) -> None:
        self._feed = feed
        self._interruption = interruption
        self._get_save_seconds = get_save_seconds
        self._world = world

    def __call__(self, loss: float, grad_norm: float, batches: Sequence[Batch]) -> StepMessage:
        """Exchange the message. Collective."""
        has_data = self._feed.fetch()
        reason = self._interruption.look(save_seconds=self._get_save_seconds())
        num_bad = sum(len(batch.bad_samples) for batch in batches)
        heard = [float(reason == other) for other in REASONS]
        sums = sum_over_ranks(torch.tensor([loss, grad_norm, num_bad, not has_data, *heard], dtype=torch.float64))
        loss_sum, norm_sum, num_bad_samples, num_without_data, *num_heard = sums.tolist()
        if not num_without_data:
            self._feed.agree()
        self._interruption.agree([other for other, count in zip(REASONS, num_heard, strict=True) if count][-1])
        return StepMessage(
            mean_loss=loss_sum / self._world.num_ranks,
            grad_norm=norm_sum / self._world.num_ranks,
            num_bad_samples=int(num_bad_samples),
        )

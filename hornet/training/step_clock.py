"""Where the time of a step goes on this rank: waiting for data, forward, backward, optimizer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Phase = Literal["data", "forward", "backward", "optimizer"]
COMPUTING: tuple[Phase, ...] = ("forward", "backward", "optimizer")


class StepClock:
    """Adds up seconds by phase.

    Forward is what this rank does alone (under ZeRO-3 it includes gathering weights); backward and optimizer include
    waiting for the other ranks. On a GPU these three are measured by events on the device, which cost no
    synchronisation.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._phase: Phase | None = None  # of the block that is under way
        self._seconds = _no_time()
        self._events: list[tuple[Phase, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def measure(self, phase: Phase) -> Iterator[None]:
        """Add the block's time to `phase`, and to no other: the next batches may be fetched within the optimizer's.

        Data is fetched by the host, and timed there.
        """
        around, self._phase = self._phase, phase
        try:
            if self._is_cuda and phase != "data":
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                yield
                end.record()
                self._events.append((phase, start, end))
            else:
                started = time.perf_counter()
                yield
                seconds = time.perf_counter() - started
                self._seconds[phase] += seconds
                if around is not None:  # on a GPU too: it idles meanwhile, since the gradient's norm was asked for
                    self._seconds[around] -= seconds
        finally:
            self._phase = around

    def take(self) -> dict[str, float]:
        """Return the seconds of each phase since the last call."""
        for phase, start, end in self._events:
            end.synchronize()  # the last step's may be under way
            self._seconds[phase] += start.elapsed_time(end) / 1000
        taken, self._seconds, self._events = self._seconds, _no_time(), []
        return taken


def _no_time() -> dict[str, float]:
    return dict.fromkeys(("data", *COMPUTING), 0.0)

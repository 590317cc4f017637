"""Ends a rank that makes no progress, after writing down where each of its threads stands."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Literal, TextIO

from hornet.errors import UserError
from hornet.runs.directory import RunDirectory
from hornet.world import World

STALLED = 70
"""Exit code of a rank that was ended here: EX_SOFTWARE of sysexits.h."""

TICK_SECONDS = 1.0
GRACE_SECONDS = 5.0
"""Between a rank's report and its end: one that ends breaks the connections of those that have not reported yet."""

Phase = Literal["start", "train", "evaluate", "save"]


class Watchdog:
    """Runs beside a rank for the length of a block; `stall_seconds` without a sign of life end the process.

    A sign of life is a step, a change of phase, or a forward pass of a network that is watched.
    """

    def __init__(self, run: RunDirectory, *, world: World, stall_seconds: float | None) -> None:
        self._run = run
        self._world = world
        self._stall_seconds = stall_seconds
        self._phase: Phase = "start"
        self._step = 0
        self._alive_at = time.monotonic()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self.beat()
        if self._stall_seconds is not None:
            _arm_fallback(self._stall_seconds)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_over.set()
        if self._stall_seconds is not None:
            self._thread.join()  # never ends if it has fired: the process does, with the code that says why
            faulthandler.cancel_dump_traceback_later()

    def beat(self) -> None:
        """Give a sign of life: before each forward pass, in training and in evaluation."""
        self._alive_at = time.monotonic()

    def count(self, step: int) -> None:
        """Note that a step is done."""
        self._step = step
        self.beat()

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Name what the block does."""
        before, self._phase = self._phase, phase
        self.beat()
        try:
            yield
        finally:
            self._phase = before
            self.beat()

    def _watch(self) -> None:
        assert self._stall_seconds is not None
        while not self._is_over.wait(min(TICK_SECONDS, self._stall_seconds / 4)):
            if time.monotonic() - self._alive_at > self._stall_seconds:
                self._end()
            _arm_fallback(self._stall_seconds)

    def _end(self) -> None:
        what = (
            f"rank {self._world.rank} made no progress for {self._stall_seconds:g} s (run.stall_seconds) in phase "
            f"{self._phase} after step {self._step}"
        )
        _write_stacks(sys.stderr, what)
        with suppress(OSError, UserError):  # the disk may be what hangs
            folder = self._run.path / "stacks"
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / f"rank_{self._world.rank:05d}.txt").open("w") as file:
                _write_stacks(file, what)
            self._run.write_status(
                "failed", step=self._step, phase=self._phase, error=f"{what}; see stacks/ for what it was doing"
            )
        # Rank 0 goes before the others: it must not meet their broken connections and take them for the reason.
        time.sleep(GRACE_SECONDS if self._world.is_main else 2 * GRACE_SECONDS)
        os._exit(STALLED)


def _arm_fallback(stall_seconds: float) -> None:
    """Let faulthandler's own thread end the process, with 1, if the watchdog does not come back in time.

    It cannot run while another thread hangs with Python's lock held, and may hang itself in a write to a dead disk.
    """
    faulthandler.dump_traceback_later(stall_seconds + 3 * GRACE_SECONDS, exit=True)


def _write_stacks(file: TextIO, title: str) -> None:
    file.write(f"{title}; its threads:\n")
    file.flush()  # faulthandler writes past the buffer
    faulthandler.dump_traceback(file, all_threads=True)

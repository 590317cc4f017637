"""Who may ask a run to save or to stop - signals, a deadline, files - and how all ranks come to agree on it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from hornet.signals import heard_signal
from hornet.training.loop import Request
from hornet.training.process_group import max_over_ranks
from hornet.world import World

NOTHING, SAVE_FILE, DEADLINE, STOP_FILE = "", "SAVE file", "run.stop_at", "STOP file"
REASONS = (NOTHING, SAVE_FILE, DEADLINE, STOP_FILE, "SIGINT", "SIGUSR1", "SIGTERM")
"""What a rank may have heard, weakest first: the strongest reason that any rank has counts for all."""

SECONDS_BETWEEN_FILE_LOOKS = 1.0
NUM_STEPS_REMEMBERED = 100


class Interruption:
    """Looks for requests from outside, once a step: rank 0 at the clock and at files, each rank at signals.

    What a rank saw travels with the step's message (step_message.py), and is obeyed when the step has ended.
    """

    def __init__(
        self,
        folder: Path,
        *,
        world: World,
        stop_at: datetime | None,
        hear: Callable[[], str | None] = heard_signal,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`folder` is where STOP and SAVE may appear; `hear` and `now` are replaced by tests."""
        self.reason = NOTHING
        """Which of REASONS the ranks agreed on last, the same on every rank."""
        self._folder = folder
        self._world = world
        self._stop_at = None if stop_at is None else stop_at.timestamp()
        self._hear = hear
        self._now = now
        self._looked_at: float | None = None
        self._files_looked_at: float | None = None
        self._step_seconds: deque[float] = deque(maxlen=NUM_STEPS_REMEMBERED)
        self._seconds_after_look: deque[float] = deque(maxlen=NUM_STEPS_REMEMBERED)
        self._can_remove_save = True

    def look(self, *, save_seconds: float) -> str:
        """Return which of REASONS this rank has, of its own. `save_seconds` is how long saving takes."""
        mine = self._hear() or NOTHING
        if self._world.is_main:
            mine = mine or self._look_outside(save_seconds)
        return mine

    def agree(self, strongest: str) -> None:
        """Take note of the strongest reason of all ranks: what `request` says from now on."""
        self.reason = strongest
        if strongest == SAVE_FILE and self._world.is_main:
            self._remove_save_file()

    def agree_alone(self, *, save_seconds: float) -> None:
        """Look and agree in a message of its own: before the first step. Collective."""
        self.agree(REASONS[max_over_ranks(REASONS.index(self.look(save_seconds=save_seconds)))])

    @property
    def request(self) -> Request:
        """What all ranks are to do."""
        return {NOTHING: Request.GO_ON, SAVE_FILE: Request.SAVE}.get(self.reason, Request.STOP)

    def end_step(self) -> None:
        """Note that a step has ended: what comes between a look and this counts against the deadline too."""
        if self._looked_at is not None:
            self._seconds_after_look.append(self._now() - self._looked_at)

    def _look_outside(self, save_seconds: float) -> str:
        now = self._now()
        if self._looked_at is not None:
            self._step_seconds.append(now - self._looked_at)
        self._looked_at = now
        # One more step, evaluation included if one was among the last, must end before the deadline, then a save.
        needed = max(self._step_seconds, default=0.0) + max(self._seconds_after_look, default=0.0) + save_seconds
        if self._stop_at is not None and now + needed >= self._stop_at:
            return DEADLINE
        if self._files_looked_at is not None and now - self._files_looked_at < SECONDS_BETWEEN_FILE_LOOKS:
            return NOTHING  # each look is a question to a server, and steps may be short
        self._files_looked_at = now
        with suppress(OSError):  # a server that does not answer well is no request to stop
            if (self._folder / "STOP").exists():
                return STOP_FILE
            if self._can_remove_save and (self._folder / "SAVE").exists():
                return SAVE_FILE
        return NOTHING

    def _remove_save_file(self) -> None:
        try:
            (self._folder / "SAVE").unlink(missing_ok=True)
        except OSError as error:
            self._can_remove_save = False  # else it would be obeyed every second
            print(
                f"warning: {self._folder / 'SAVE'}: cannot be removed ({error.strerror}); it is obeyed once", flush=True
            )


def explain_stop(reason: str, *, step: int, run: Path) -> str:
    """Return the line a stopped run ends with."""
    advice = {
        STOP_FILE: f"remove {run / 'STOP'}, and the same command goes on",
        DEADLINE: "the same command goes on, with a later run.stop_at",
    }
    return f"stopped after step {step} ({reason}); {advice.get(reason, 'the same command goes on')}"

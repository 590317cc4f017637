"""Who may ask a run to save or to stop - signals, a deadline, files - and how all ranks come to agree on it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from hornet.signals import heard_signal
from hornet.training.loop import Wish
from hornet.training.process_group import max_over_ranks
from hornet.world import World

NOTHING, SAVE_FILE, DEADLINE, STOP_FILE = "", "SAVE file", "run.stop_at", "STOP file"
REASONS = (NOTHING, SAVE_FILE, DEADLINE, STOP_FILE, "SIGINT", "SIGUSR1", "SIGTERM")
"""What a rank may have heard, weakest first: the strongest reason that any rank has counts for all."""

SECONDS_BETWEEN_FILE_LOOKS = 1.0
NUM_STEPS_REMEMBERED = 100


class Interruption:
    """Looks for wishes from outside, between two steps: rank 0 at the clock and at files, each rank at signals."""

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
        """Why the last look was answered as it was, the same on every rank."""
        self._folder = folder
        self._world = world
        self._stop_at = None if stop_at is None else stop_at.timestamp()
        self._hear = hear
        self._now = now
        self._looked_at: float | None = None
        self._files_looked_at: float | None = None
        self._step_seconds: deque[float] = deque(maxlen=NUM_STEPS_REMEMBERED)
        self._can_remove_save = True

    def look(self, *, save_seconds: float) -> Wish:
        """Return what all ranks are to do. Collective. `save_seconds` is how long saving takes."""
        mine = self._hear() or NOTHING
        if self._world.is_main:
            mine = mine or self._look_outside(save_seconds)
        self.reason = REASONS[max_over_ranks(REASONS.index(mine))]
        if self.reason == SAVE_FILE and self._world.is_main:
            self._remove_save_file()
        return {NOTHING: Wish.GO_ON, SAVE_FILE: Wish.SAVE}.get(self.reason, Wish.STOP)

    def _look_outside(self, save_seconds: float) -> str:
        now = self._now()
        if self._looked_at is not None:
            self._step_seconds.append(now - self._looked_at)
        self._looked_at = now
        # One more step, evaluation included if one was among the last, must end before the deadline, then a save.
        if self._stop_at is not None and now + max(self._step_seconds, default=0.0) + save_seconds >= self._stop_at:
            return DEADLINE
        if self._files_looked_at is not None and now - self._files_looked_at < SECONDS_BETWEEN_FILE_LOOKS:
            return NOTHING  # each look is a question to a server, and steps may be short
        self._files_looked_at = now
        with suppress(OSError):  # a server that does not answer well is no wish to stop
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

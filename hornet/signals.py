"""What signals ask of this process: remembered here, obeyed between two steps (hornet/training/interruption.py).

Entry scripts import this before anything that takes long, so it imports nothing that does.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from contextlib import suppress
from types import FrameType

ASKING_TO_STOP = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)

ONE_KEYSTROKE_SECONDS = 1.0
"""Launchers pass Ctrl-C on to ranks that the terminal has told already: within this time it is the same one."""

_GOING_TO_STOP = (
    b"\nstopping with a checkpoint after this step, or now if none has begun; Ctrl-C again ends the run at once, "
    b"without one\n"
)

_heard: list[str] = []
_interrupted_at: list[float] = []


def catch_signals() -> None:
    """Remember from now on who asks this process to stop; the second Ctrl-C raises KeyboardInterrupt.

    SIGUSR2, and what ends a process without a word (SIGSEGV, SIGABRT), writes all threads' stacks to stderr.
    """
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR2)
    for number in ASKING_TO_STOP:
        signal.signal(number, _note)


def heard_signal() -> str | None:
    """Return the name of the first signal that asked this process to stop, None if there was none."""
    return _heard[0] if _heard else None


def leave_signals_to_main() -> None:
    """Ignore, in a helper process, what a terminal or SLURM sends to all: the main process decides, and needs it."""
    ignore_signals()
    faulthandler.register(signal.SIGUSR2)  # it would end a process that is not prepared


def ignore_signals() -> None:
    """Let nothing more ask for a stop: the process is about to end, and its exit code is decided."""
    for number in ASKING_TO_STOP:
        signal.signal(number, signal.SIG_IGN)


def _note(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT:
        _interrupted_at.append(time.monotonic())
        if _interrupted_at[-1] - _interrupted_at[0] > ONE_KEYSTROKE_SECONDS:
            signal.default_int_handler(number, frame)
        if len(_interrupted_at) == 1:
            with suppress(OSError):  # the terminal may be gone; print() must not be called from here
                os.write(2, _GOING_TO_STOP)
    _heard.append(signal.Signals(number).name)

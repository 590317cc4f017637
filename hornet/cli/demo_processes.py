"""The processes of a demo's commands: started as a user would, killed for show, and gone when the demo is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psutil

from hornet.cli import print_to_pipe

BIN = Path(sys.executable).parent
STOP_SECONDS = 60.0
"""How long a command that is asked to stop may take: a training writes a checkpoint."""


@contextmanager
def start(title: str, command: list[object]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command in a process group of its own, without GPUs: the demo is the same everywhere.

    If the demo ends within the block, all processes of the command are asked to stop, and are gone then.
    """
    words = [str(word) for word in command]
    shown = " ".join(word.replace(f"{BIN}/", "").replace(f"{Path.cwd()}/", "") for word in words)
    print_to_pipe(f"\n=== {title}\n$ {shown}")
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",  # the deepspeed launcher looks for its own tools and python there
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen(words, env=environment, start_new_session=True)
    try:
        yield process
    except BaseException:
        family = list_family(process)
        try:
            ask_to_stop(family)
        finally:
            kill(family)
        print(f"demo: ended, and {title} with it; the same command goes on", file=sys.stderr, flush=True)
        raise


def list_family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return a command's process and all below it: torchrun's ranks have groups and sessions of their own."""
    try:
        launcher = psutil.Process(process.pid)
        return [launcher, *launcher.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def ask_to_stop(family: list[psutil.Process]) -> None:
    """SIGTERM each, since deepspeed's launcher passes none on, and wait for their ends, STOP_SECONDS at most."""
    for one in family:
        with suppress(psutil.NoSuchProcess):
            one.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    while any(map(is_at_work, family)) and time.monotonic() < deadline:
        time.sleep(0.1)


def is_at_work(process: psutil.Process) -> bool:
    """Whether a process is there; one that has ended may be listed until its parent has asked for its exit code."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill(family: list[psutil.Process]) -> None:
    """SIGKILL those processes that are there still."""
    for one in family:
        with suppress(psutil.NoSuchProcess):
            one.kill()


def catch_signals() -> None:
    """Leave, from now on, by SystemExit on what ends a process, unless that is ignored (nohup)."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)

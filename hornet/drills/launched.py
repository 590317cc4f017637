"""Training runs as processes of their own on this machine: started, watched, told to stop, killed."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from hornet.errors import UserError

TORCHRUN = "{python} -m torch.distributed.run --standalone --nproc_per_node={ranks}"
"""Starts {ranks} ranks of a script on this machine; {python} is this interpreter."""

_QUIET_SECONDS = 2.0
"""How long a killed run must have written nothing."""


@dataclass(frozen=True)
class Script:
    """What the ranks of a stage run."""

    stage: str

    @property
    def words(self) -> list[str]:
        """What a launcher takes: the checkout's file, which every one starts, or of an installed package the module."""
        file = Path(__file__).resolve().parents[2] / "launch" / f"{self.stage}.py"
        return [str(file)] if file.exists() else ["-m", f"hornet.cli.{self.stage}"]


@dataclass(frozen=True)
class LaunchedRun:
    """A run whose ranks were started from here."""

    path: Path
    """Its run directory."""
    log: Path
    """What its ranks print, of this and earlier attempts."""
    process: subprocess.Popen[bytes]
    """The launcher, whose children the ranks are."""

    @classmethod
    def start(cls, launcher: str, num_ranks: int, arguments: list[str], *, path: Path, log: Path) -> LaunchedRun:
        """Start `num_ranks` ranks of a script with its arguments; they append to `log`."""
        words = shlex.split(launcher.format(ranks=num_ranks, python=shlex.quote(sys.executable)))
        with log.open("ab") as file:
            process = subprocess.Popen([*words, *arguments], stdout=file, stderr=file, start_new_session=True)
        return cls(path=path, log=log, process=process)

    @property
    def num_steps(self) -> int:
        """Steps it has recorded, over all attempts."""
        metrics = self.path / "metrics.jsonl"
        return len(metrics.read_bytes().splitlines()) if metrics.exists() else 0

    def wait_for_steps(self, num_steps: int, *, seconds: float | None = None) -> None:
        """Wait until so many steps are recorded; raises UserError if the run ends before, or `seconds` are over."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            code = self.process.poll()  # first: what a run writes before it ends is there when its end is seen
            if self.num_steps >= num_steps:
                return
            if code is not None:
                raise UserError(f"{self.path.name}: ended with {code} before step {num_steps}; see {self.log}")
            if deadline is not None and time.monotonic() > deadline:
                raise UserError(f"{self.path.name}: no step {num_steps} within {seconds:.0f} s; see {self.log}")
            time.sleep(0.02)

    def signal_ranks(self, number: signal.Signals, script: Script) -> None:
        """Send a signal to every rank, and not to the launcher: torchrun would end them all by SIGTERM."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if child.ppid() == self.process.pid and script.words[-1] in child.cmdline():
                    child.send_signal(number)

    def kill(self) -> None:
        """SIGKILL the launcher and all it started (torchrun gives its ranks sessions of their own), and see them gone.

        Raises UserError if the run goes on all the same, as one on other nodes may.
        """
        if self.process.poll() is None:
            family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
            for member in family:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
            self.process.wait()
            psutil.wait_procs(family, timeout=30)
        num_steps = self.num_steps
        time.sleep(_QUIET_SECONDS)
        if self.num_steps != num_steps:
            raise UserError(
                f"{self.path}: goes on though its launcher was killed: its ranks are not this machine's; give a "
                "--launcher whose ranks end with it (srun --kill-on-bad-exit=1), or run this on one node"
            )

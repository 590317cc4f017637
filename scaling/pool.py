"""Runs of a study on this machine: as many at a time as cores and memory allow, each the ordinary command.

A run that ends too early is started again and goes on from its checkpoint. Whoever stops the pool stops its runs, which
save; the same command goes on with all of them. Runs that outlive a killed pool are waited for, not started twice.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from hornet.config import to_yaml
from hornet.drills.launched import Script
from hornet.durable import write_json, write_text
from hornet.errors import UserError
from hornet.quantities import format_seconds
from hornet.runs.lock import Lock
from scaling.cells import Cell
from scaling.config import Study
from scaling.ledger import add_taken
from scaling.order import find_startable, foresee_end, name_runs
from scaling.state import STATUS_NAME, look

BAD_INPUT = 2
POLL_SECONDS = 0.2
WAIT_FOR_SAVES_SECONDS = 600.0


@dataclass(kw_only=True)
class _Job:
    """A run that was started here."""

    cell: Cell
    process: subprocess.Popen[bytes]
    slot: int
    started: float


@dataclass(kw_only=True)
class Pool:
    """What is under way, and what became of the rest. `ask_to_stop` says who wants the pool to stop, or None."""

    study: Study
    cells: Sequence[Cell]
    """All of the study's, to look where parents and trunks are."""
    seconds: Mapping[str, float]
    """What runs take, as far as it is known."""
    ask_to_stop: Callable[[], str | None]
    foretell: Callable[[], str | None]
    """Writes the predictions of what is held out, once all else has ended; returns why none can be made, or None."""
    waiting: list[Cell] = field(default_factory=list)
    jobs: list[_Job] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    tries: dict[str, int] = field(default_factory=dict)
    num_finished: int = 0
    num_all: int = 0

    def run(self, runs: Sequence[Cell]) -> str | None:
        """Bring all `runs`, in this order, to their end; return who asked for a stop before, or None."""
        self.waiting, self.num_all = list(runs), len(runs)
        self._write_status("running")
        try:
            while self.waiting or self.jobs:
                asked = self.ask_to_stop()
                if asked is not None:
                    self._stop_all(asked)
                    return asked
                self._reap()
                self._drop_orphans()
                if not self._start_next():
                    time.sleep(POLL_SECONDS)
        except BaseException:
            self._kill_all()
            self._write_status("stopped")
            raise
        self._write_status("finished")
        return None

    def _start_next(self) -> bool:
        """Start a run if there is room and one may start; return whether the queue has changed."""
        free = sorted(set(range(self.study.config.execution.num_slots)) - {job.slot for job in self.jobs})
        busy = {cell.run: owner for cell in self.waiting if (owner := self._find_owner(cell)) is not None}
        if len(free) <= len(busy):
            return False
        running = [job.cell for job in self.jobs]
        for cell in find_startable(self.waiting, running, runs=name_runs(self.cells)):
            if cell.run in busy:
                continue
            self.waiting.remove(cell)
            reason = self.foretell() if cell.is_held_out else None
            if reason is None:
                self._start(cell, slot=free[0])
            else:
                self._give_up(cell, f"it was not foretold: {reason}")
            return True
        return False

    def _drop_orphans(self) -> None:
        runs = name_runs(self.cells)
        for cell in list(self.waiting):
            lost = [(kind, name) for kind, name in cell.waits_for.items() if runs[name] in self.failed]
            if lost:
                self.waiting.remove(cell)
                self._give_up(cell, "its {} {} failed".format(*lost[0]))

    def _find_owner(self, cell: Cell) -> str | None:
        folder = self.study.folder / cell.run
        return Lock(folder).find_owner() if folder.exists() else None

    def _start(self, cell: Cell, *, slot: int) -> None:
        config, log = write_cell(self.study, cell), log_of(self.study, cell)
        process = start_run(self.study, cell, config, log, slot=slot)
        self.jobs.append(_Job(cell=cell, process=process, slot=slot, started=time.monotonic()))
        self._say(f"started {cell.run}")

    def _reap(self) -> None:
        for job in [job for job in self.jobs if job.process.poll() is not None]:
            self.jobs.remove(job)
            add_taken(self.study, job.cell.run, time.monotonic() - job.started)
            self._judge(job)

    def _judge(self, job: _Job) -> None:
        cell, code = job.cell, job.process.returncode
        standing = look(self.study, [cell])[cell.name]
        if standing.state == "finished":
            self.num_finished += 1
            self._say(f"finished {cell.run} in {format_seconds(time.monotonic() - job.started)}")
            return
        last = _read_last_line(log_of(self.study, cell))
        if code == 0:
            self._give_up(cell, f"it was stopped before its end ({last})")
        elif code == BAD_INPUT:
            self._give_up(cell, f"it was refused: {last}")
        elif self.tries.get(cell.run, 0) < self.study.config.execution.retries:
            self.tries[cell.run] = self.tries.get(cell.run, 0) + 1
            self.waiting.insert(0, cell)
            self._say(f"exit code {code} of {cell.run}, started again from its checkpoint ({last})")
        else:
            self._give_up(cell, f"exit code {code}: {last}")

    def _give_up(self, cell: Cell, reason: str) -> None:
        self.failed[cell.run] = reason
        self._say(f"failed {cell.run}: {reason}; log {log_of(self.study, cell)}")

    def _stop_all(self, asked: str) -> None:
        print(f"{asked}: {len(self.jobs)} runs save and stop; the same command goes on", flush=True)
        for job in self.jobs:
            _signal(job.process, signal.SIGTERM)
        deadline = time.monotonic() + WAIT_FOR_SAVES_SECONDS
        for job in self.jobs:
            with suppress(subprocess.TimeoutExpired):
                job.process.wait(timeout=max(0.0, deadline - time.monotonic()))
            add_taken(self.study, job.cell.run, time.monotonic() - job.started)
        self._kill_all()
        self._write_status("stopped")

    def _kill_all(self) -> None:
        for job in self.jobs:
            if job.process.poll() is None:
                _signal(job.process, signal.SIGKILL)
                job.process.wait()
        self.jobs = []

    def _say(self, text: str) -> None:
        """Print what happened and how far all is, and write it down."""
        parts = [f"{self.num_finished}/{self.num_all} finished", f"{len(self.jobs)} running"]
        parts += [f"{len(self.failed)} failed"] if self.failed else []
        left = [*self.waiting, *(job.cell for job in self.jobs)]
        if left and all(cell.name in self.seconds for cell in left):
            parts.append(f"about {format_seconds(self._foresee_end())} left")
        print(f"{time.strftime('%H:%M:%S')}  {', '.join(parts)}  {text}", flush=True)
        self._write_status("running")

    def _foresee_end(self) -> float:
        now = time.monotonic()
        running = [(max(0.0, self.seconds[job.cell.name] - (now - job.started)), job.cell) for job in self.jobs]
        slots = self.study.config.execution.num_slots
        return foresee_end(self.waiting, seconds=self.seconds, slots=slots, runs=name_runs(self.cells), running=running)

    def _write_status(self, state: str) -> None:
        content = {
            "state": state,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "pid": os.getpid(),
            "finished": self.num_finished,
            "asked": self.num_all,
            "running": [job.cell.run for job in self.jobs],
            "failed": self.failed,
        }
        write_json(self.study.folder / STATUS_NAME, content)


def write_cell(study: Study, cell: Cell) -> Path:
    """Write a cell's config, whole, into the study's folder; return its file."""
    path = study.folder / "cells" / f"{cell.run}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, f"# {cell.run} of the study {study.path}\n{to_yaml(cell.config)}")
    return path


def log_of(study: Study, cell: Cell) -> Path:
    """Return the file that a run's output goes to, of all its attempts."""
    return study.folder / "logs" / f"{cell.run}.log"


def start_run(study: Study, cell: Cell, config: Path, log: Path, *, slot: int = 0) -> subprocess.Popen[bytes]:
    """Start a cell's stage on a config in a process group of its own; it appends to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    execution = study.config.execution
    gpu = execution.find_gpu(slot)
    settings = [f"OMP_NUM_THREADS={execution.threads}", f"CUDA_VISIBLE_DEVICES={'' if gpu is None else gpu}"]
    settings += ["DS_ACCELERATOR=cpu"] if gpu is None else []
    words = [sys.executable, *Script(cell.stage).words, "--config", str(config)]
    with log.open("ab") as file:
        return subprocess.Popen(
            ["env", *settings, *words], stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run that was made to be timed."""

    code: int
    seconds: float
    """From the command to its exit."""
    memory_gb: float
    """The most that one of its processes held in the host's memory, 1e9 bytes."""


def run_together(study: Study, cell: Cell, configs: Sequence[Path]) -> list[Ended]:
    """Run a cell's stage on all configs at the same time, one in each slot, to the end; logs stand beside them."""
    started = time.monotonic()
    processes = [
        start_run(study, cell, config, config.with_suffix(".log"), slot=slot) for slot, config in enumerate(configs)
    ]

    def wait(process: subprocess.Popen[bytes]) -> Ended:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - started
        return Ended(code=process.returncode, seconds=seconds, memory_gb=usage.ru_maxrss * 1024 / 1e9)

    with ThreadPoolExecutor(len(processes)) as threads:
        try:
            return [future.result() for future in [threads.submit(wait, process) for process in processes]]
        except BaseException:
            for process in processes:
                _signal(process, signal.SIGKILL)
            raise


def hold_study(study: Study) -> Lock:
    """Return the lock of a study, to be held in a `with` block; raises UserError if another runner is at work."""
    study.folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(study.folder)
    owner = lock.find_owner()
    if owner is not None:
        raise UserError(
            f"{study.folder}: {owner} is running this study; stop it first (Ctrl-C, or SIGTERM to it), or look at it "
            "with `status`"
        )
    return lock


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _read_last_line(log: Path) -> str:
    try:
        text = log.read_text(errors="replace")
    except OSError:
        return "its log is gone"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it wrote nothing"

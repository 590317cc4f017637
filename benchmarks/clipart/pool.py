"""So many runs at a time on one machine, each a process of its own; the same command goes on where it was stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.clipart.runs import Run
from benchmarks.clipart.sets import ROOT

POLL_SECONDS = 0.2
NUM_TRIES = 2
WAIT_FOR_SAVES_SECONDS = 45.0


class Pool:
    """What is under way, and what became of the rest."""

    def __init__(
        self, *, logs: Path, num_slots: int, settings: Mapping[str, str], ask_to_stop: Callable[[], str | None]
    ) -> None:
        self.failed: dict[str, str] = {}
        self._logs, self._num_slots, self._settings, self._ask_to_stop = logs, num_slots, settings, ask_to_stop
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._started: dict[str, float] = {}
        self._tries: dict[str, int] = {}

    def run(self, runs: Sequence[Run]) -> str | None:
        """Bring all runs to their end, in this order where what they need is there; return who asked for a stop."""
        self._logs.mkdir(parents=True, exist_ok=True)
        waiting = [run for run in runs if not run.made.exists()]
        print(f"{len(runs) - len(waiting)} of {len(runs)} runs are finished already", flush=True)
        by_name = {run.name: run for run in runs}
        try:
            while waiting or self._running:
                asked = self._ask_to_stop()
                if asked is not None:
                    print(f"{asked}: {len(self._running)} runs save and stop; the same command goes on", flush=True)
                    self._stop()
                    return asked
                waiting = self._reap(by_name) + waiting
                waiting = self._drop_orphans(waiting)
                ready = [run for run in waiting if all(by_name[name].made.exists() for name in run.needs)]
                if ready and len(self._running) < self._num_slots:
                    waiting.remove(ready[0])
                    self._start(ready[0])
                else:
                    time.sleep(POLL_SECONDS)
        except BaseException:
            self._signal(signal.SIGKILL)
            raise
        return None

    def _start(self, run: Run) -> None:
        words = ["env", *(f"{key}={value}" for key, value in self._settings.items()), sys.executable, "-u", *run.words]
        with (self._logs / f"{run.name}.log").open("ab") as log:
            self._running[run.name] = subprocess.Popen(
                words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._started[run.name] = time.monotonic()
        self._tries[run.name] = self._tries.get(run.name, 0) + 1
        print(f"{time.strftime('%H:%M:%S')}  started {run.name}", flush=True)

    def _reap(self, by_name: Mapping[str, Run]) -> list[Run]:
        """Judge the runs that have ended; return those that are to be started again."""
        again = []
        for name in [name for name, process in self._running.items() if process.poll() is not None]:
            code = self._running.pop(name).returncode
            seconds = time.monotonic() - self._started[name]
            if code == 0 and by_name[name].made.exists():
                print(f"{time.strftime('%H:%M:%S')}  finished {name} in {seconds:.0f} s", flush=True)
                continue
            print(f"{time.strftime('%H:%M:%S')}  exit code {code} of {name}: {self._read_end(name)}", flush=True)
            if code not in (0, 2) and self._tries[name] < NUM_TRIES:
                again.append(by_name[name])
            else:
                self.failed[name] = f"exit code {code}: {self._read_end(name)}"
        return again

    def _drop_orphans(self, waiting: Sequence[Run]) -> list[Run]:
        kept = []
        for run in waiting:
            lost = [name for name in run.needs if name in self.failed]
            if lost:
                self.failed[run.name] = f"{lost[0]} failed"
            else:
                kept.append(run)
        return kept

    def _read_end(self, name: str) -> str:
        text = (self._logs / f"{name}.log").read_text(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1][:300] if lines else "it wrote nothing"

    def _stop(self) -> None:
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + WAIT_FOR_SAVES_SECONDS
        for process in self._running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.0, deadline - time.monotonic()))
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._running.values():
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)

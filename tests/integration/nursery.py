"""Processes that start at once: forked from one that has imported everything, which takes each fresh one 10 s.

`python -m tests.integration.nursery` is that process: it reads a line of JSON for each process to start, or to ask
after. What it forks is like `python WORDS...` in everything that ours and the libraries' code can see: arguments,
environment, folder, output, a session of its own, exit code. The nursery has one thread, and has computed nothing.
"""

import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
IMPORTED = (
    "pretrain.stage",
    "finetune.stage",
    "dense.stage",
    "hornet.stages.judging",
    "hornet.drills.forked_ranks",
    "deepspeed.runtime.zero.muon.muon_optimizer",  # of every engine's start; brings torch._inductor, 3 s
)
"""What the stages need, and commands on what they have written."""


class Nursery:
    """The process that others are forked from."""

    def __init__(self, *, environment):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def ask(self, **request):
        """Send a request and return the answer."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self):
        """End the nursery; what it forked is waited for before."""
        self._process.stdin.close()
        self._process.wait(timeout=PATIENCE)


class ForkedProcess:
    """One process, with what the tests use of subprocess.Popen."""

    def __init__(self, nursery, *, words, environment, output, errors=None, cwd=ROOT, patch=None):
        """`words` are what python would be given; what is written to stderr goes to `errors`, else to `output`."""
        self._nursery, self._output, self._errors = nursery, Path(output), errors and Path(errors)
        self.returncode = None
        for path in (self._output, self._errors):
            if path is not None:
                path.touch()  # the answer may come before the forked process has opened them
        self.pid = nursery.ask(
            words=list(map(str, words)),
            environment=environment,
            output=str(output),
            errors=errors and str(errors),
            cwd=str(cwd),
            patch=patch,
        )

    def poll(self):
        """Return the exit code, None while it runs."""
        if self.returncode is None:
            self.returncode = self._nursery.ask(poll=self.pid)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self, timeout):
        """Wait to the end; return what it wrote to stdout and to stderr, None for this if they went to one file."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"still runs after {timeout} s:\n{self._output.read_text()}")
            time.sleep(0.01)
        return self._output.read_text(), self._errors and self._errors.read_text()


def serve():
    """Import what processes will need, then fork one for each request; in it, return what it is to become."""
    for name in IMPORTED:
        importlib.import_module(name)
    importlib.import_module("hornet.data.augment.operations").compile_all()  # 2 s; numba's loops have no threads here
    if (num_threads := len(list(Path("/proc/self/task").iterdir()))) != 1:
        raise RuntimeError(f"{num_threads} threads: what is forked would miss all but one, with the locks they hold")
    gc.collect()
    gc.freeze()  # collections in the forked would touch, and so copy, every page of what was imported
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                return request
        print(json.dumps(answer), flush=True)
    return None


def become(*, words, environment, output, errors, cwd, patch):
    """Do what `python WORDS...` does; its exit, in whatever way, is that of this process."""
    os.setsid()  # a signal to the process's group reaches it and its workers, not the tests
    written = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for path in (output, errors) if path is not None]
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(written[0], 1)
    os.dup2(written[-1], 2)
    for descriptor in written:
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    if patch is not None:
        importlib.import_module(patch)
    os.chdir(cwd)
    if words[0] == "-m":
        sys.path[0] = str(Path.cwd())
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(words[0]).resolve().parent)  # as Python does with a script's folder
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    request = serve()
    if request is not None:
        become(**request)

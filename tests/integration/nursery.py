"""Ranks that start at once: forked from one process that has imported everything, which takes each fresh one 10 s.

Run as a script it is that process: it reads a line of JSON for each rank to start, or to ask after. A rank runs the
entry script as a launcher would start it, with its own environment, arguments and output.
"""

import importlib
import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INITIALIZE = "deepspeed.runtime.zero.muon.muon_optimizer"
"""What deepspeed.initialize imports, and all of torch._inductor with it."""


class Nursery:
    """The process that ranks are forked from."""

    def __init__(self, script, *, environment):
        self._script, self._environment = script, environment
        self._process = subprocess.Popen(
            [sys.executable, __file__, script],
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
        """End the nursery; ranks are waited for before."""
        self._process.stdin.close()
        self._process.wait(timeout=60)


class ForkedProcess:
    """One rank, with what the tests use of subprocess.Popen."""

    def __init__(self, nursery, *, arguments, environment, output, patch):
        self._nursery, self._output = nursery, Path(output)
        self.returncode = None
        self.pid = nursery.ask(arguments=arguments, environment=environment, output=str(output), patch=patch)

    def poll(self):
        """Return the exit code, None while it runs."""
        if self.returncode is None:
            self.returncode = self._nursery.ask(poll=self.pid)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self, timeout):
        """Wait to the end; return what it wrote."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"rank still runs after {timeout} s:\n{self._output.read_text()}")
            time.sleep(0.01)
        return self._output.read_text(), None


def serve(script):
    """Import what the script will need, then fork a rank for each request."""
    sys.path.insert(0, str(ROOT))
    for module in (f"{script}.config", f"{script}.stage", *([INITIALIZE] if script == "pretrain" else [])):
        importlib.import_module(module)
    importlib.import_module("hornet.data.augment.operations").compile_all()
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                become_rank(script, **request)
        print(json.dumps(answer), flush=True)


def become_rank(script, *, arguments, output, environment, patch):
    """Run the entry script in this forked process, to the end of the process."""
    os.setsid()  # a signal to the rank's process group reaches it and its workers, not the tests
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(environment)
    path = ROOT / "launch" / f"{script}.py"
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.parent))  # as Python does with a script's folder
    code = 1
    try:
        if patch is not None:
            importlib.import_module(patch)
        runpy.run_path(str(path), run_name="__main__")
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        os._exit(code)  # not back into the loop of the nursery


if __name__ == "__main__":
    serve(sys.argv[1])

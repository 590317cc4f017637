"""Ranks that start at once: forked from one process that has imported everything, which takes each fresh one 10 s.

Run as a script it is that process: it reads a line of JSON for each rank to start, or for each to wait for. A rank runs
the entry script as a launcher would start it, with its own environment, arguments and output.
"""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


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


class ForkedRanks:
    """One life of a run."""

    def __init__(self, nursery, *arguments, num_ranks, output):
        self._nursery, self._output = nursery, output
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._pids = [
            nursery.ask(
                arguments=[str(argument) for argument in arguments],
                output=f"{output}.{rank}",
                environment={
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(num_ranks),
                    "LOCAL_WORLD_SIZE": str(num_ranks),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                },
            )
            for rank in range(num_ranks)
        ]

    def is_running(self):
        """Whether no rank has ended."""
        return all(not Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].startswith(" Z") for pid in self._pids)

    def kill(self):
        """SIGKILL all ranks."""
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)
        return self.wait()

    def wait(self):
        """Wait for all; return exit codes and outputs by rank."""
        codes = [self._nursery.ask(wait=pid) for pid in self._pids]
        return codes, [Path(f"{self._output}.{rank}").read_text() for rank in range(len(codes))]


def serve(script):
    """Import what the script will need, then fork a rank for each request."""
    sys.path.insert(0, str(ROOT))
    __import__(f"{script}.config")
    __import__(f"{script}.stage")
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                become_rank(script, **request)
        print(json.dumps(answer), flush=True)


def become_rank(script, *, arguments, output, environment):
    """Run the entry script in this forked process, to the end of the process."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(environment)
    path = ROOT / "launch" / f"{script}.py"
    sys.argv = [str(path), *arguments]
    code = 1
    try:
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

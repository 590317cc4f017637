"""Processes that hang, forked from one that has imported torch."""

import json
import subprocess
import sys

import pytest

from tests.patience import PATIENCE

SCRIPT = """
import os, pathlib, re, signal, sys, time
from hornet.runs.directory import RunConfig, RunDirectory
from hornet.training import watchdog
from hornet.world import World

watchdog.GRACE_SECONDS = 0.2

def hang(seconds=60): time.sleep(seconds)
def hang_with_the_lock(): re.match(r"(a+)+$", "a" * 60 + "b")

def live(rank, act, stall_seconds=0.5):
    world = World(rank=rank, num_ranks=3, local_rank=rank, num_local_ranks=3, master_address="", master_port=0)
    run = RunDirectory(RunConfig(name="r", root=pathlib.Path(sys.argv[1])), world=world)
    with watchdog.Watchdog(run, world=world, stall_seconds=stall_seconds) as dog:
        dog.count(7)
        with dog.phase("evaluate"):
            act(dog)

def beat(dog):
    for _ in range(10):
        hang(0.1)
        dog.beat()

attempts = [
    lambda: live(0, lambda dog: hang()),
    lambda: live(1, lambda dog: hang()),
    lambda: live(2, lambda dog: hang_with_the_lock()),
    lambda: live(2, beat),
    lambda: live(2, lambda dog: hang(1), stall_seconds=None),
]
pids = []
for number, attempt in enumerate(attempts):
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        os.dup2(os.open(f"{sys.argv[1]}/stderr_{number}", os.O_WRONLY | os.O_CREAT), 2)
        attempt()
        os._exit(0)
    pids.append(pid)
print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids])
"""


@pytest.mark.slow
def test_what_hangs_is_ended_and_says_where_it_hung(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert json.loads(done.stdout) == [70, 70, 1, 0, 0]
    stacks = {path.name: path.read_text() for path in (tmp_path / "r/stacks").iterdir()}
    assert stacks.keys() == {"rank_00000.txt", "rank_00001.txt"}
    for rank in (0, 1):
        text = stacks[f"rank_0000{rank}.txt"]
        assert text.startswith(f"rank {rank} made no progress for 0.5 s (run.stall_seconds) in phase evaluate after")
        assert "in hang\n" in text
        assert "in hang\n" in (tmp_path / f"stderr_{rank}").read_text()
    assert "in hang_with_the_lock\n" in (tmp_path / "stderr_2").read_text()
    assert (tmp_path / "stderr_3").read_text() == (tmp_path / "stderr_4").read_text() == ""
    status = json.loads((tmp_path / "r/status.json").read_text())
    assert (status["state"], status["step"], status["phase"]) == ("failed", 7, "evaluate")
    assert "rank 0 made no progress for 0.5 s" in status["error"]

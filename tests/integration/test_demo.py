"""The demo removes nothing, goes on from what is there, and ends its commands when it is ended."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

from hornet.cli import demo, demo_processes
from tests.integration.conftest import ROOT, make_environment
from tests.patience import PATIENCE

pytestmark = pytest.mark.slow

FOREIGN = ("data/demo/shards-f0.25-s0/_info.json", "data/demo/mine.txt", "runs/demo/mine/report.html")


def start_demo(folder, *arguments):
    """Start it as a user does in a folder that is no checkout; a session of its own, as a terminal gives one."""
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "launch/demo.py"), *arguments],
            cwd=folder,
            env=make_environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def list_times(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A folder in which `demo --data` was run beside files of somebody else."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in FOREIGN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    assert start_demo(folder, "--data").wait(PATIENCE) == 0, (folder / "log").read_text()
    return folder


def test_a_demo_that_is_ended_leaves_no_process_behind(begun):
    """The training's launcher passes the signal on, and its ranks save."""
    process, run = start_demo(begun), begun / "runs/demo/pretrain"
    deadline = time.monotonic() + PATIENCE
    while not (run / "metrics.jsonl").exists() or not demo.read_last_step(run):
        assert process.poll() is None, (begun / "log").read_text()
        assert time.monotonic() < deadline, (begun / "log").read_text()
        time.sleep(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) > demo.NUM_RANKS
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 143
    assert not [one for one in family if demo_processes.is_at_work(one)]
    said = (begun / "log").read_text()
    assert said.rstrip().endswith("demo: ended, and pretraining, to be killed with it; the same command goes on")
    assert "Traceback" not in said
    assert "(SIGTERM); the same command goes on" in said
    assert list((run / "checkpoints").glob("step_*/manifest.json"))
    assert [(begun / name).read_text() for name in FOREIGN] == ["mine"] * len(FOREIGN)


def test_a_set_that_is_whole_stays(begun):
    before = list_times(begun / "data")
    assert start_demo(begun, "--data").wait(PATIENCE) == 0
    said = (begun / "log").read_text()
    assert "demo: data/demo/shards: train is there, 1442 samples" in said
    assert list_times(begun / "data") == before
    (begun / "data/demo/shards/digits-validation-000000.tar").unlink()
    assert start_demo(begun, "--data").wait(PATIENCE) == 1, "a damaged set is told, and neither taken nor removed"
    said = (begun / "log").read_text()
    assert said.rstrip().endswith("; or remove data/demo/shards, and the demo makes it again")
    assert len(list((begun / "data/demo/shards").glob("*.tar"))) == 9

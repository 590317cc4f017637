"""A study of two runs whose runner is killed: the same command goes on, and makes nothing twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.unit.scaling.studies import GRID, write_study

ROOT = Path(__file__).resolve().parents[2]
SMALL = GRID | {"families": ["gf"], "sizes": ["atto"], "fractions": [1.0], "epochs": [1]}


def call(command, path, **options):
    words = [sys.executable, "launch/scaling.py", command, "--config", str(path)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


@pytest.mark.slow
def test_a_killed_study_goes_on_and_ends_with_a_page(tmp_path):
    path = write_study(tmp_path, groups={"grid": SMALL})
    folder = tmp_path / "runs/toy"
    first = call("run", path, start_new_session=True)
    metrics = folder / "grid/gf-atto_f1_e1_s0/metrics.jsonl"
    while not metrics.exists() and first.poll() is None:
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    second = call("run", path)
    text, _ = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, text
    assert "2 finished" in text.splitlines()[-1]
    for seed in (0, 1):
        events = (folder / f"grid/gf-atto_f1_e1_s{seed}/events.jsonl").read_text()
        assert events.count('"event": "finished"') == 1
    third = call("run", path)  # nothing is left
    text, _ = third.communicate(timeout=PATIENCE)
    assert third.returncode == 0, text
    assert "started" not in text
    report = call("report", path)
    text, _ = report.communicate(timeout=PATIENCE)
    assert report.returncode == 0, text
    assert "gf-atto_f1_e1_s1" in (folder / "report.html").read_text()
    fits = json.loads((folder / "fits.json").read_text())
    assert fits["families"][0]["remarks"]  # one cell: what cannot be said is said

"""Runs that are asked to stop, and ranks that hang or lag."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.conftest import (
    ROOT,
    Ranks,
    launch,
    make_environment,
    read_last_step,
    read_rows,
    wait_until,
)

pytestmark = pytest.mark.slow

EXACT = ("step", "loss", "lr", "grad_norm", "batch_digest", "images_seen")


def read_status(run):
    return json.loads((run / "status.json").read_text())


def assert_stopped(run, codes, outputs, *, reason):
    """Every rank ended in order, saying so, with a checkpoint of the step it stopped at; return that step."""
    assert codes == [0] * len(codes), "\n---\n".join(outputs)
    status = read_status(run)
    assert (status["state"], status["reason"]) == ("stopped", reason)
    assert (run / "checkpoints/latest").read_text() == f"step_{status['step']:08d}"
    assert f"stopped after step {status['step']} ({reason}); " in outputs[0]
    assert not list(run.glob("checkpoints/*.partial"))
    return status["step"]


def list_children(pid):
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


def test_a_run_stopped_with_its_workers_and_resumed_is_the_undisturbed_run(pretraining, tmp_path):
    config = pretraining(cadence__save_every_steps=1000, evaluation=None)
    whole, stopped = tmp_path / "runs/whole", tmp_path / "runs/stopped"
    launch("pretrain.py", "--config", config, "run.name=whole")
    arguments = ["pretrain.py", "--config", config, "run.name=stopped"]

    ranks = Ranks(*arguments, "data.num_workers=2")
    wait_until(lambda: read_last_step(stopped) >= 2, ranks)
    workers = [child for process in ranks.processes for child in list_children(process.pid)]
    assert len(workers) == 4
    for process in ranks.processes:
        os.killpg(process.pid, signal.SIGTERM)
    assert 2 <= assert_stopped(stopped, *ranks.wait(), reason="SIGTERM") < 12

    launch(*arguments)
    rows = [[{key: row[key] for key in EXACT} for row in read_rows(run)] for run in (whole, stopped)]
    assert len(rows[0]) == 12
    assert rows[0] == rows[1]
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{worker}/fd").exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [worker for worker in workers if Path(f"/proc/{worker}/fd").exists()]


def test_one_rank_or_a_file_or_the_clock_asks_and_all_ranks_obey(pretraining, tmp_path):
    config = pretraining(schedule__num_epochs=1000, cadence__save_every_steps=100_000, evaluation=None)
    run = tmp_path / "runs/pretrain"
    ranks = Ranks("pretrain.py", "--config", config)
    wait_until(lambda: read_last_step(run) >= 1, ranks)
    assert not (run / "checkpoints").exists()
    (run / "SAVE").touch()
    wait_until(lambda: (run / "checkpoints/latest").exists(), ranks)
    assert not (run / "SAVE").exists()
    saved = (run / "checkpoints/latest").read_text()
    ranks.processes[1].send_signal(signal.SIGUSR1)
    step = assert_stopped(run, *ranks.wait(), reason="SIGUSR1")
    assert f"step_{step:08d}" > saved

    codes, outputs = launch("pretrain.py", "--config", config, "run.stop_at=1")
    assert assert_stopped(run, codes, outputs, reason="run.stop_at") == step, "it was too late to begin"
    (run / "STOP").touch()
    codes, outputs = launch("pretrain.py", "--config", config)
    assert assert_stopped(run, codes, outputs, reason="STOP file") == step
    assert f"remove {run}/STOP, and the same command goes on" in outputs[0]


def test_signals_during_the_start_and_at_the_very_end_change_nothing_of_the_ending(pretraining, tmp_path):
    """A process as a user starts it, under fire from the moment it listens until it is gone."""
    run = tmp_path / "runs/pretrain"
    command = [sys.executable, ROOT / "launch/pretrain.py", "--config", pretraining(schedule__num_epochs=1000)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=make_environment())
    while process.poll() is None:
        if catches(process.pid, signal.SIGTERM):
            process.send_signal(signal.SIGTERM)
        time.sleep(0.005)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    status = read_status(run)
    assert (status["state"], status["step"], status["reason"]) == ("stopped", 0, "SIGTERM")
    assert "stopped after step 0 (SIGTERM)" in output


def catches(pid, number):
    """Whether a process handles or ignores a signal, as the kernel sees it."""
    masks = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "Sig" in line)
    return bool((int(masks["SigCgt"], 16) | int(masks["SigIgn"], 16)) >> (number - 1) & 1)


def test_a_rank_that_hangs_ends_the_run_and_shows_where(pretraining, tmp_path):
    run = tmp_path / "runs/pretrain"
    # Longer than any start takes on a machine that is busy with other things.
    ranks = Ranks("pretrain.py", "--config", pretraining(), "run.stall_seconds=45", patch="tests.integration.hanging")
    codes, outputs = ranks.wait()
    assert codes == [70, 70], "\n---\n".join(outputs)
    stacks = [(run / f"stacks/rank_0000{rank}.txt").read_text() for rank in (0, 1)]
    assert stacks[1].startswith("rank 1 made no progress for 45 s (run.stall_seconds) in phase train after step 2")
    assert "in hang_forever\n" in stacks[1]
    assert "in hang_forever\n" in outputs[1]
    assert "in hang_forever\n" not in stacks[0]
    assert "in run_step\n" in stacks[0]
    status = read_status(run)
    assert (status["state"], status["phase"], status["step"]) == ("failed", "train", 2)
    assert "rank 0 made no progress" in status["error"]


def test_a_rank_that_lags_is_named(pretraining, tmp_path):
    config = pretraining(schedule__num_epochs=1, evaluation=None)
    _, outputs = Ranks("pretrain.py", "--config", config, patch="tests.integration.lagging").wait()
    rows = read_rows(tmp_path / "runs/pretrain")
    # A step's time for data is that of fetching the next one's; behind the last there is none.
    assert [row["slowest_rank"] for row in rows[:-1]] == [1] * 5
    assert all(row["slowest_over_median"] > 1.2 for row in rows[:-1])
    assert [int(row["data_seconds"] // 3600) for row in rows] == [2, 1, 1, 1, 1, 0], "mean over two ranks, two reads"
    assert "straggler: rank 1 on " in outputs[0]
    assert "for 3 reports running" in outputs[0]
    assert "straggler" not in outputs[1]

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hornet.errors import UserError
from hornet.runs.directory import RunConfig, RunDirectory
from hornet.training.config import TrackingConfig
from hornet.training.trackers import open_trackers
from hornet.world import ALONE
from tests.patience import PATIENCE

IMAGE = torch.rand(3, 8, 8)


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(RunConfig(name="r", root=tmp_path), world=ALONE)
    run.path.mkdir()
    return run


def test_tensorboard_shows_numbers_and_images_and_hides_what_an_attempt_repeats(run):
    for first_step, loss in ((0, 1.0), (2, 5.0)):
        (tracker,) = open_trackers(TrackingConfig(), run, first_step=first_step, world=ALONE)
        for step in range(first_step + 1, 5):
            tracker.add_scalars({"train/loss": loss}, step=step)
            tracker.add_image("filter/one", IMAGE, step=step)
        tracker.close()
    board = EventAccumulator(str(run.tensorboard), size_guidance={"scalars": 0}).Reload()
    assert [(event.step, event.value) for event in board.Scalars("train/loss")] == [(1, 1), (2, 1), (3, 5), (4, 5)]
    assert board.Tags()["images"] == ["filter/one"]


def test_ranks_other_than_0_track_nothing(run):
    other = replace(ALONE, rank=1, num_ranks=2)
    assert not open_trackers(TrackingConfig(wandb_project="p"), run, first_step=0, world=other)
    assert not open_trackers(TrackingConfig(tensorboard=False), run, first_step=0, world=ALONE)


def test_a_missing_wandb_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"tracking.wandb_project is p, but the package wandb is not installed"):
        open_trackers(TrackingConfig(wandb_project="p"), run, first_step=0, world=ALONE)


USE_WANDB = """
import sys
from pathlib import Path
import torch
from hornet.runs.directory import RunConfig, RunDirectory
from hornet.training.trackers import open_trackers
from hornet.training.config import TrackingConfig
from hornet.world import ALONE

run = RunDirectory(RunConfig(name="r", root=Path(sys.argv[1])), world=ALONE)
_, tracker = open_trackers(TrackingConfig(wandb_project="hornet"), run, first_step=0, world=ALONE)
for step in (2, 1):
    tracker.add_scalars({"train/loss": 1.5}, step=step)
tracker.add_image("filter/one", torch.rand(3, 8, 8), step=2)
tracker.close()
"""


@pytest.mark.slow
def test_wandb_keeps_one_run_over_two_attempts(run, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    ids = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", USE_WANDB, str(run.config.root)], check=True, capture_output=True)
        ids.append((run.path / "wandb_id").read_text())
    assert ids[0] == ids[1]
    attempts = [path.name for path in (run.path / "wandb").glob("offline-run-*")]
    assert len(attempts) == 2
    assert all(attempt.endswith(ids[0]) for attempt in attempts)
    assert len(list((run.path / "wandb").glob("offline-run-*/files/media/images/filter/*.png"))) == 2


@pytest.mark.slow
def test_wandb_without_a_login_is_a_sentence(run, monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(tmp_path))  # no .netrc there
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_MODE", "online")
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    command = [sys.executable, "-c", USE_WANDB, str(run.config.root)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    last = done.stderr.strip().splitlines()[-1]
    assert "UserError: tracking.wandb_project is hornet, but Weights & Biases does not begin a run: " in last
    assert "log in once (wandb login), or set WANDB_MODE=offline" in last
    assert not (run.path / "wandb_id").exists(), "the next start says so again"


@pytest.mark.slow
def test_a_run_that_was_begun_goes_on_without_wandbs_server(run, monkeypatch, tmp_path):
    """Hours of training later it may be away when the run is started again; wandb would not let the process end."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", 40 * "a")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    command = [sys.executable, "-c", USE_WANDB, str(run.config.root)]
    for mode in ("offline", "online"):
        monkeypatch.setenv("WANDB_MODE", mode)
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=PATIENCE
        )
    assert "warning: Weights & Biases does not go on with the run: " in done.stdout
    known = (run.path / "wandb_id").read_text()
    assert len(list((run.path / "wandb").glob(f"offline-run-*-{known}"))) == 2


@pytest.mark.slow
def test_a_run_ends_though_wandb_waits_for_its_server(run, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    stop_service = """
import psutil, signal
import hornet.training.trackers as trackers
trackers.CLOSE_SECONDS = 1.0
(service,) = [child for child in psutil.Process().children() if child.name() == "wandb-core"]
service.send_signal(signal.SIGSTOP)
tracker.close()
print("closed")
"""
    code = USE_WANDB.replace("tracker.close()", stop_service)
    command = [sys.executable, "-c", code, str(run.config.root)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE)
    assert "warning: Weights & Biases has not taken all within 1 s" in done.stdout
    assert done.stdout.endswith("closed\n")


@pytest.mark.slow
def test_a_run_goes_on_though_wandbs_process_was_killed(run, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    kill_service = """
import psutil
(service,) = [child for child in psutil.Process().children() if child.name() == "wandb-core"]
service.kill()
service.wait()
for step in range(3, 6):
    tracker.add_scalars({"train/loss": 1.5}, step=step)
tracker.add_image("filter/one", torch.rand(3, 8, 8), step=6)
tracker.close()
print("closed")
"""
    code = USE_WANDB.replace("tracker.close()", kill_service)
    command = [sys.executable, "-c", code, str(run.config.root)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.count("warning: Weights & Biases has ended by itself (") == 1
    assert done.stdout.endswith("closed\n")

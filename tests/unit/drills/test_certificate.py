"""The certificate is refused to runs that only look alike, and to those that were never killed."""

import json

import pytest
import torch

from hornet.drills.certificate import Attempt, compare, format_table
from hornet.drills.launched import LaunchedRun, Script
from hornet.errors import UserError
from hornet.training.checkpoints.saver import Checkpointer
from hornet.training.checkpoints.state import RunState
from hornet.training.config import RetentionConfig
from hornet.world import ALONE

RUN = """
import json, sys, time
from pathlib import Path
name = sys.argv[-1].removeprefix("run.name=")
folder = Path(sys.argv[2]).parent / name
folder.mkdir(exist_ok=True)
metrics = folder / "metrics.jsonl"
rows = [json.dumps({"step": step}) + "\\n" for step in range(8)]
"""
RUN_TO_BE_KILLED = """
if not metrics.exists():  # the first attempt stays at step 3 until it is killed
    metrics.write_text("".join(rows[:3]))
    time.sleep(600)
metrics.write_text("".join(rows))
(folder / "summary.json").write_text("{}")
"""
RUN_FINISHED_BEFORE = """
(folder / "summary.json").write_text("{}")
metrics.write_text("".join(rows))
time.sleep(600)
"""


def run_attempt(folder, body):
    script = folder / "fake.py"
    script.write_text(RUN + body)
    attempt = Attempt(name="killed", num_ranks=1, kill_after=3)
    attempt.run(Script(str(script.with_suffix(""))), folder / "certificate.yaml", folder=folder, launcher="{python}")


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_to_its_end(tmp_path):
    run_attempt(tmp_path, RUN_TO_BE_KILLED)
    assert (tmp_path / "killed/summary.json").exists()


@pytest.mark.slow
def test_a_run_that_was_finished_before_the_kill_proves_nothing(tmp_path):
    with pytest.raises(UserError, match="was finished before it could be killed; give more --steps"):
        run_attempt(tmp_path, RUN_FINISHED_BEFORE)


def test_a_run_that_ends_without_its_steps_names_its_log(tmp_path):
    with pytest.raises(UserError, match=r"ended with 0 before step 3; see .*killed\.log"):
        run_attempt(tmp_path, "metrics.write_text(rows[0])")


class EndedProcess:
    """A run that writes its last rows between a look at them and one at the process."""

    returncode = 0

    def __init__(self, metrics):
        self.metrics = metrics

    def poll(self):
        self.metrics.write_text("{}\n" * 8)
        return 0


def test_rows_that_a_run_wrote_before_it_ended_are_seen(tmp_path):
    run = LaunchedRun(path=tmp_path, log=tmp_path / "log", process=EndedProcess(tmp_path / "metrics.jsonl"))
    run.wait_for_steps(3)


def test_a_run_that_fails_names_its_log(tmp_path):
    script = tmp_path / "fake.py"
    script.write_text("raise SystemExit(3)")
    attempt = Attempt(name="undisturbed", num_ranks=1, kill_after=None)
    with pytest.raises(UserError, match=r"undisturbed: ended with 3; see .*undisturbed\.log"):
        attempt.run(Script(str(script.with_suffix(""))), tmp_path / "c.yaml", folder=tmp_path, launcher="{python}")


class StateEngine:
    def __init__(self, weight, moment, count):
        self.weight, self.moment, self.count = weight, moment, count

    def save(self, folder, writer):
        state = {0: {"exp_avg": self.moment, "step": 3}}
        writer.take(
            folder / "state.pt", {"model": {"weight": self.weight, "count": self.count}, "optimizer": {"state": state}}
        )


def write_run(folder, *, losses, digests=("a", "b"), weight=0.5, moment=0.25, count=8):
    folder.mkdir()
    rows = [
        {"batch_digest": digest, "loss": loss, "grad_norm": 1.0} for digest, loss in zip(digests, losses, strict=True)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    checkpointer = Checkpointer(
        folder / "checkpoints",
        engine=StateEngine(torch.full((3,), weight), torch.full((3,), moment), torch.tensor(count)),
        identity={"engine": "accelerate"},
        description={},
        world=ALONE,
        retention=RetentionConfig(),
        find_best=lambda steps: None,
        require_sole=lambda: None,
    )
    checkpointer.save(RunState(step=2))
    checkpointer.finish()
    checkpointer.close()
    return folder


@pytest.mark.parametrize(
    ("changes", "resumed_ranks", "is_the_same"),
    [
        ({}, None, True),
        ({"losses": [2.0, 1.0001]}, None, False),
        ({"losses": [2.0, 1.0001]}, 4, True),
        ({"losses": [2.0, 1.1]}, 4, False),
        ({"losses": [2.0, None]}, 4, False),
        ({"digests": ("a", "c")}, 4, False),
        ({"weight": 0.25}, None, False),
        ({"moment": 0.5}, None, False),
        ({"count": 9}, None, False),
        ({"count": 9}, 4, True),
    ],
)
def test_what_differs_is_refused(tmp_path, alone, changes, resumed_ranks, is_the_same):
    undisturbed = write_run(tmp_path / "undisturbed", losses=[2.0, 1.0])
    other = write_run(tmp_path / "other", **{"losses": [2.0, 1.0], **changes})
    attempt = Attempt(name="other", num_ranks=2, kill_after=1, resumed_ranks=resumed_ranks)
    row = compare(undisturbed, other, attempt)
    assert row["weight_difference"] == max(
        abs(changes.get("weight", 0.5) - 0.5), abs(changes.get("moment", 0.25) - 0.25)
    )
    assert row["is_the_same_run"] == is_the_same
    table = format_table([row], num_steps=2)
    assert ("NOT THE SAME RUN" in table) == (not is_the_same)
    assert ("DIFFERENT" in table) == ("digests" in changes)

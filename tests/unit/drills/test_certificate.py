"""The certificate is refused to runs that only look alike, and to those that were never killed."""

import json

import pytest
import torch

from hornet.drills.certificate import Life, compare, format_table
from hornet.drills.launched import Script
from hornet.errors import UserError
from hornet.training.checkpoints.saver import Checkpointer, RetentionConfig
from hornet.training.loop import RunState
from hornet.world import ALONE

FAKE = """
import json, sys, time
from pathlib import Path
name = sys.argv[-1].removeprefix("run.name=")
folder = Path(sys.argv[2]).parent / name
folder.mkdir(exist_ok=True)
metrics = folder / "metrics.jsonl"
for step in range(len(metrics.read_text().splitlines()) if metrics.exists() else 0, 8):
    with metrics.open("a") as file:
        file.write(json.dumps({"step": step}) + "\\n")
    time.sleep(0.2 if SLOW else 0)
(folder / "summary.json").write_text("{}")
"""


@pytest.mark.parametrize("is_slow", [True, False])
def test_a_run_that_was_finished_before_the_kill_proves_nothing(tmp_path, is_slow):
    script = tmp_path / "fake.py"
    script.write_text(FAKE.replace("SLOW", str(is_slow)))
    life = Life(name="killed", num_ranks=1, kill_after=3)

    def run():
        life.run(Script(str(script)), tmp_path / "certificate.yaml", folder=tmp_path, launcher="{python}")

    if is_slow:
        run()
        assert (tmp_path / "killed/summary.json").exists()
        return
    with pytest.raises(UserError, match=r"finished before it could be killed|ended with 0 before it was killed"):
        run()


def test_a_run_that_fails_names_its_log(tmp_path):
    script = tmp_path / "fake.py"
    script.write_text("raise SystemExit(3)")
    life = Life(name="undisturbed", num_ranks=1, kill_after=None)
    with pytest.raises(UserError, match=r"undisturbed: ended with 3; see .*undisturbed\.log"):
        life.run(Script(str(script)), tmp_path / "c.yaml", folder=tmp_path, launcher="{python}")


class StateEngine:
    def __init__(self, weight):
        self.weight = weight

    def save(self, folder, writer):
        writer.take(folder / "state.pt", {"model": {"weight": self.weight}, "optimizer": {}})


def write_run(folder, *, losses, digests=("a", "b"), weight=0.5):
    folder.mkdir()
    rows = [
        {"batch_digest": digest, "loss": loss, "grad_norm": 1.0} for digest, loss in zip(digests, losses, strict=True)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    checkpointer = Checkpointer(
        folder / "checkpoints",
        engine=StateEngine(torch.full((3,), weight)),
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
    ],
)
def test_what_differs_is_refused(tmp_path, alone, changes, resumed_ranks, is_the_same):
    undisturbed = write_run(tmp_path / "undisturbed", losses=[2.0, 1.0])
    other = write_run(tmp_path / "other", **{"losses": [2.0, 1.0], **changes})
    life = Life(name="other", num_ranks=2, kill_after=1, resumed_ranks=resumed_ranks)
    row = compare(undisturbed, other, life)
    assert row["is_the_same_run"] == is_the_same
    table = format_table([row], num_steps=2)
    assert ("NOT THE SAME RUN" in table) == (not is_the_same)
    assert ("DIFFERENT" in table) == ("digests" in changes)

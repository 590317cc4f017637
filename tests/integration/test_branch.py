"""A branch of a trunk is, to the bit, the run that was trained at its length from step 0 on: with real ZeRO 0 to 3."""

import json

import pytest
import torch

from hornet.training.engines.deepspeed_files import EMA, WEIGHT, ZeroCheckpoint
from tests.integration.branches import SHORT, STABLE, STAGES, STEPS_PER_EPOCH
from tests.integration.conftest import PRETRAIN, read_rows, run_python, write_config

pytestmark = pytest.mark.slow

EXACT = ("step", "loss", "lr", "grad_norm", "batch_digest", "images_seen", "epoch", "num_bad_samples", "skipped")
CHANGES = {
    "run__stall_seconds": None,
    "model__name": "hornet_zepto_gf",
    "model__arguments": {"depths": [1, 1, 1, 1]},
    "optimizer__ema_decay": 0.8,
    "evaluation__batch_size": 13,
    "schedule": {"num_epochs": 1, "warmup_epochs": 2 / STEPS_PER_EPOCH, "peak_lr": 2e-3, "shape": "wsd"},
    "cadence": {"log_every_steps": 1, "save_every_steps": STABLE, "norms_every_steps": 3, "evaluate_every_steps": 4},
    "tracking__tensorboard": False,
    "global_batch_size": 12,
    "micro_batch_size": 6,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, shards):
    """The folder of the runs, and what was printed."""
    folder = tmp_path_factory.mktemp("branches")
    config = write_config(folder, PRETRAIN, shards=shards, **CHANGES)
    done = run_python("-m", "tests.integration.branches", str(config))
    return folder / "runs", done.stdout


def read_exactly(run):
    rows = [{key: row[key] for key in EXACT} for row in read_rows(run)]
    return rows, read_rows(run, "norms"), read_rows(run, "evaluations")


@pytest.mark.parametrize("stage", STAGES)
def test_a_branch_is_the_run_of_its_length(runs, stage):
    folder, output = runs
    trunk, short, branch = (folder / f"{name}_{stage}" for name in ("trunk", "short", "branch"))
    assert f"{branch}: is {trunk} up to step {STABLE}, and begins there" in output, "its newest before a cooldown"
    rows, norms, evaluations = read_exactly(short)
    assert [row["step"] for row in rows] == list(range(1, SHORT + 1))
    assert len({row["lr"] for row in rows[STABLE:]}) == SHORT - STABLE
    assert len({row["lr"] for row in rows[1:STABLE]}) == 1
    assert ([row["step"] for row in norms], [row["step"] for row in evaluations]) == ([3, 6], [4, 4, 7, 7])
    assert read_exactly(branch) == (rows, norms, evaluations)
    theirs = read_exactly(trunk)[0]
    assert theirs[:STABLE] == rows[:STABLE]
    assert theirs[STABLE + 1]["lr"] != rows[STABLE + 1]["lr"], "two lengths, else nothing is shown"
    assert_same_state(*(run / f"checkpoints/step_{SHORT:08d}" for run in (short, branch)))

    summaries = [json.loads((run / "summary.json").read_text()) for run in (short, branch, trunk)]
    assert summaries[0]["digest"] == summaries[1]["digest"] != summaries[2]["digest"]
    assert [summary["branched_from"] for summary in summaries] == [None, {"trunk": str(trunk), "step": STABLE}, None]
    assert {path.name for path in (branch / "checkpoints").iterdir()} == {"latest", f"step_{SHORT:08d}"}


def assert_same_state(one, other):
    left, right = ZeroCheckpoint(one), ZeroCheckpoint(other)
    assert left.kinds == right.kinds == ("exp_avg", "exp_avg_sq", EMA)
    for kind in (WEIGHT, *left.kinds):
        states = left.read_all(kind), right.read_all(kind)
        assert states[0].keys() == states[1].keys()
        assert sum(tensor.numel() for tensor in states[0].values()) > 50_000
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0]), kind
    assert (left.groups, left.counters) == (right.groups, right.counters)
    for group in left.groups:
        assert left.steps_of(group["names"]) == right.steps_of(group["names"]) == SHORT

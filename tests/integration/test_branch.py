"""A branch of a trunk is, to the bit, the run that was trained at its length from step 0 on: with real ZeRO 0 to 3."""

import json

import pytest
import torch

from hornet.training.engines.deepspeed_files import EMA, WEIGHT, ZeroCheckpoint
from tests.integration.conftest import launch, read_rows

pytestmark = pytest.mark.slow

EXACT = ("step", "loss", "lr", "grad_norm", "batch_digest", "images_seen", "epoch", "num_bad_samples", "skipped")
STABLE, TRUNK, SHORT = 4, 8, 6
"""Steps before a cooldown, of the trunk and of its branch; six make an epoch, so both leave the first one."""
CHANGES = {
    "model__name": "hornet_zepto_gf",
    "optimizer__ema_decay": 0.8,
    "evaluation__batch_size": 13,
    "schedule": {
        "num_epochs": TRUNK / 6,
        "warmup_epochs": 2 / 6,
        "peak_lr": 2e-3,
        "shape": "wsd",
        "cooldown_share": 1 - STABLE / TRUNK,
    },
    "cadence": {"log_every_steps": 1, "save_every_steps": 2, "norms_every_steps": 3, "evaluate_every_steps": 3},
}
AS_SHORT = [f"schedule.num_epochs={SHORT / 6}", f"schedule.cooldown_share={1 - STABLE / SHORT}"]


def read_exactly(run):
    rows = [{key: row[key] for key in EXACT} for row in read_rows(run)]
    return rows, read_rows(run, "norms"), read_rows(run, "evaluations")


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_branch_is_the_run_of_its_length(pretraining, tmp_path, stage):
    config = pretraining(zero__stage=stage, **CHANGES)
    runs = {name: tmp_path / "runs" / name for name in ("trunk", "short", "branch")}
    launch("pretrain.py", "--config", config, "run.name=trunk")
    launch("pretrain.py", "--config", config, "run.name=short", *AS_SHORT)
    options = [f"run.branch_from={runs['trunk']}", "schedule.cooldown=1-sqrt", *AS_SHORT]
    _, outputs = launch("pretrain.py", "--config", config, "run.name=branch", *options)

    assert f"is {runs['trunk']} up to step {STABLE}, and begins there" in outputs[0], "its newest before a cooldown"
    rows, norms, evaluations = read_exactly(runs["short"])
    assert [row["step"] for row in rows] == list(range(1, SHORT + 1))
    assert len({row["lr"] for row in rows[STABLE:]}) == SHORT - STABLE > len({row["lr"] for row in rows[1:STABLE]})
    assert ([row["step"] for row in norms], len(evaluations)) == ([3, 6], 4)
    assert read_exactly(runs["branch"]) == (rows, norms, evaluations)
    assert read_exactly(runs["trunk"])[0][: STABLE + 1] == rows[: STABLE + 1]
    assert read_exactly(runs["trunk"])[0][STABLE + 1] != rows[STABLE + 1]
    assert_same_state(*(runs[name] / f"checkpoints/step_{SHORT:08d}" for name in ("short", "branch")))

    summaries = {name: json.loads((runs[name] / "summary.json").read_text()) for name in runs}
    assert summaries["branch"]["digest"] == summaries["short"]["digest"] != summaries["trunk"]["digest"]
    assert summaries["branch"]["branched_from"] == {"trunk": str(runs["trunk"]), "step": STABLE}
    assert summaries["short"]["branched_from"] is None
    assert {path.name for path in (runs["branch"] / "checkpoints").iterdir()} == {"latest", f"step_{SHORT:08d}"}


def assert_same_state(one, other):
    left, right = ZeroCheckpoint(one), ZeroCheckpoint(other)
    assert left.kinds == right.kinds == ("exp_avg", "exp_avg_sq", EMA)
    for kind in (WEIGHT, *left.kinds):
        states = left.read_all(kind), right.read_all(kind)
        assert states[0].keys() == states[1].keys()
        assert sum(tensor.numel() for tensor in states[0].values()) > 100_000
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0]), kind
    assert (left.groups, left.counters) == (right.groups, right.counters)
    for group in left.groups:
        assert left.steps_of(group["names"]) == right.steps_of(group["names"]) == SHORT

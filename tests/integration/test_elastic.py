"""Real runs that go on with another number of ranks."""

import time

import pytest
import torch

from hornet.model.build import ModelConfig, build_model
from tests.integration.conftest import make_environment, read_rows, write_config
from tests.integration.nursery import ForkedRanks, Nursery

pytestmark = pytest.mark.slow

NUM_STEPS = 8
CONFIG = {
    "run": {"name": "elastic", "seed": 2},
    "start": {},
    "model": {"name": "hornet_atto_gf", "drop_path_rate": 0.0, "layer_scale_init": 0.5},
    "data": {
        "split": "train",
        "shuffle_window_shards": 2,
        "transform": {"image_size": 32, "flip_probability": 0.5, "rand_augment": "rand-m9-mstd0.5-inc1"},
    },
    "mixing": {"label_smoothing": 0.1},
    "evaluation": {"image_size": 32, "batch_size": 4},
    "optimizer": {"weight_decay": 0.05, "clip_grad_norm": 1.0},
    "schedule": {"num_epochs": 1, "peak_lr": 1e-3},
    "cadence": {"log_every_steps": 1, "save_every_steps": 1},
    "precision": "fp32",
    "global_batch_size": 6,
    "micro_batch_size": 6,
}


@pytest.fixture
def nursery():
    nursery = Nursery("finetune", environment=make_environment())
    yield nursery
    nursery.close()


@pytest.fixture
def config(tmp_path, shards):
    model = build_model(ModelConfig(**CONFIG["model"]), num_classes=3, image_size=32, seed=0)
    torch.save({"model": model.state_dict()}, tmp_path / "start.pth")
    start = {"start__from": str(tmp_path / "start.pth"), "start__label_space": str(shards)}
    return write_config(tmp_path, CONFIG, shards=shards, **start)


def test_two_one_three_two_ranks_within_an_epoch_make_one_run(nursery, config, tmp_path):
    """Killed in between: the batches of one undisturbed life, and its losses up to the order of sums.

    Without mixing and drop path, which draw by micro batch, what is learned follows from the batches alone.
    """
    undisturbed, changing = tmp_path / "runs/undisturbed", tmp_path / "runs/changing"
    alone = ForkedRanks(nursery, "--config", config, "run.name=undisturbed", num_ranks=1, output=tmp_path / "alone")
    codes, outputs = alone.wait()
    assert codes == [0], outputs

    for stop, num_ranks, num_workers, micro in [(1, 2, 0, 3), (3, 1, 1, 2), (5, 3, 0, 2), (NUM_STEPS, 2, 1, 1)]:
        ways = ["run.name=changing", f"data.num_workers={num_workers}", f"micro_batch_size={micro}"]
        output = tmp_path / f"until_{stop}"
        ranks = ForkedRanks(nursery, "--config", config, *ways, num_ranks=num_ranks, output=output)
        if stop < NUM_STEPS:
            kill_at(stop, changing, ranks)
    codes, outputs = ranks.wait()
    assert codes == [0, 0], outputs
    assert "2 ranks x 3 micro steps x 1" in outputs[0]
    assert "resuming" in outputs[0]

    rows = [read_rows(run) for run in (undisturbed, changing)]
    assert [[row["step"] for row in part] for part in rows] == [list(range(1, NUM_STEPS + 1))] * 2
    digests = [[row["batch_digest"] for row in part] for part in rows]
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == NUM_STEPS
    for key in ("loss", "grad_norm"):
        assert [row[key] for row in rows[1]] == pytest.approx([row[key] for row in rows[0]], rel=1e-3)
    evaluations = [read_rows(run, "evaluations") for run in (undisturbed, changing)]
    assert [[row["num_images"] for row in part] for part in evaluations] == [[13], [13]]


def kill_at(step, run, ranks):
    """SIGKILL all ranks as soon as there is a checkpoint of `step` steps, or soon after."""
    deadline = time.monotonic() + 120
    while read_last_checkpoint(run) < step:
        if not ranks.is_running() or time.monotonic() > deadline:
            pytest.fail(f"the run ended before it could be killed: {ranks.kill()}")
        time.sleep(0.005)
    ranks.kill()
    assert read_last_checkpoint(run) < NUM_STEPS, "killed too late to go on"


def read_last_checkpoint(run):
    """The step of the newest whole checkpoint, 0 before there is one."""
    latest = run / "checkpoints/latest"
    return int(latest.read_text().strip().removeprefix("step_")) if latest.exists() else 0

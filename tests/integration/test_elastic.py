"""Real runs that go on with another number of ranks."""

import pytest
import torch

from hornet.model.build import build_model
from hornet.model.config import ModelConfig
from tests.integration.conftest import PRETRAIN, Ranks, kill_when, launch, read_rows, write_config
from tests.integration.test_networks import NETWORKS

pytestmark = pytest.mark.slow

NUM_STEPS = 8
CONFIG = {
    "run": {"name": "elastic", "seed": 2},
    "model": {**PRETRAIN["model"], "drop_path_rate": 0.0},
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
    "global_batch_size": 6,
    "micro_batch_size": 6,
}


def make_finetuning(folder, shards):
    model = build_model(ModelConfig(**CONFIG["model"]), num_classes=3, image_size=32, seed=0)
    torch.save({"model": model.state_dict()}, folder / "start.pth")
    values = {**CONFIG, "start": {}, "precision": "fp32"}
    start = {"start__from": str(folder / "start.pth"), "start__label_space": str(shards)}
    return write_config(folder, values, shards=shards, **start)


def make_pretraining(folder, shards, model=None):
    values = {**CONFIG, "zero": {"stage": 1, "precision": "fp32"}, "model": model or CONFIG["model"]}
    return write_config(folder, values, shards=shards, optimizer__ema_decay=0.8)


def make_pretraining_of(name):
    return lambda folder, shards: make_pretraining(folder, shards, {**NETWORKS[name], "drop_path_rate": 0.0})


ATTEMPTS = [(1, 2, 0, 3), (3, 1, 1, 2), (5, 3, 0, 2), (NUM_STEPS, 2, 1, 1)]
"""Each the step to be killed at, ranks, workers, micro batch size."""
TWO_TO_ONE = [(3, 2, 0, 3), (NUM_STEPS, 1, 0, 2)]


@pytest.mark.parametrize(
    ("script", "make_config", "attempts", "ways"),
    [
        ("finetune.py", make_finetuning, ATTEMPTS, [()] * 4),
        ("pretrain.py", make_pretraining, ATTEMPTS, [[f"zero.stage={stage}"] for stage in (1, 3, 2, 0)]),
        *(
            ("pretrain.py", make_pretraining_of(name), TWO_TO_ONE, [["zero.stage=2"], ["zero.stage=1"]])
            for name in ("convnext", "vit")
        ),
    ],
    ids=["finetune", "pretrain", "convnext", "vit"],
)
def test_other_ranks_within_an_epoch_make_one_run(tmp_path, shards, script, make_config, attempts, ways):
    """Killed in between: the batches of one undisturbed attempt, and its losses up to the order of sums.

    Pretraining changes the ZeRO stage from attempt to attempt too. Without mixing and drop path, which draw by micro
    batch, what is learned follows from the batches alone.
    """
    config = make_config(tmp_path, shards)
    undisturbed, changing = tmp_path / "runs/undisturbed", tmp_path / "runs/changing"
    launch(script, "--config", config, "run.name=undisturbed", num_ranks=1)

    for (stop, num_ranks, num_workers, micro), way in zip(attempts, ways, strict=True):
        options = ["run.name=changing", f"data.num_workers={num_workers}", f"micro_batch_size={micro}", *way]
        ranks = Ranks(script, "--config", config, *options, num_ranks=num_ranks)
        if stop < NUM_STEPS:
            kill_when(lambda stop=stop: read_last_checkpoint(changing) >= stop, ranks)
            assert read_last_checkpoint(changing) < NUM_STEPS, "killed too late to go on"
    codes, outputs = ranks.wait()
    assert codes == [0] * num_ranks, outputs
    assert f"{num_ranks} ranks x 3 micro steps x {micro}" in outputs[0]
    assert "resuming" in outputs[0]

    rows = [read_rows(run) for run in (undisturbed, changing)]
    assert [[row["step"] for row in part] for part in rows] == [list(range(1, NUM_STEPS + 1))] * 2
    digests = [[row["batch_digest"] for row in part] for part in rows]
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == NUM_STEPS
    for key in ("loss", "grad_norm"):
        assert [row[key] for row in rows[1]] == pytest.approx([row[key] for row in rows[0]], rel=1e-3)
    for row, expected in zip(*(read_rows(run, "evaluations") for run in (changing, undisturbed)), strict=True):
        assert (row["num_images"], row["weights"]) == (13, expected["weights"])
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-3)


def read_last_checkpoint(run):
    """The step of the newest whole checkpoint, 0 before there is one."""
    latest = run / "checkpoints/latest"
    return int(latest.read_text().strip().removeprefix("step_")) if latest.exists() else 0

import json
import re

import pytest
import timm
import torch

import hornet  # noqa: F401  registers the models
from finetune.config import FinetuneConfig
from hornet.config import load_config
from hornet.runs.directory import read_summary
from hornet.stages.run_digest import digest_run
from tests.integration.conftest import (
    NUM_CLASSES,
    NUM_VALIDATION,
    PRETRAIN,
    ROOT,
    Ranks,
    kill_when,
    launch,
    read_last_step,
    read_rows,
    run_python,
    write_config,
)

pytestmark = pytest.mark.slow

FINETUNE = {
    "run": {"name": "finetune", "seed": 2},
    "start": {},
    "model": {**PRETRAIN["model"], "drop_path_rate": 0.1},
    "data": {"split": "train", "transform": {"image_size": 48, "flip_probability": 0.5}},
    "mixing": {"label_smoothing": 0.1, "std": [0.25, 0.25, 0.25]},
    "evaluation": {"image_size": 48, "batch_size": 4},
    "optimizer": {"weight_decay": 1e-8, "clip_grad_norm": 1.0, "layer_decay": 0.8, "ema_decay": 0.9},
    "schedule": {"num_epochs": 1, "peak_lr": 1e-3},
    "cadence": {"log_every_steps": 1, "save_every_steps": 2},
    "global_batch_size": 8,
    "micro_batch_size": 2,
}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, shards):
    """A finished pretraining run at 32 pixels, by plain python on one process."""
    folder = tmp_path_factory.mktemp("pretrained")
    config = write_config(folder, PRETRAIN, shards=shards, schedule__num_epochs=1)
    run_python(ROOT / "launch/pretrain.py", "--config", config)
    return folder / "runs/pretrain"


def test_the_way_from_a_sharded_checkpoint_to_an_evaluated_run(pretrained, tmp_path, shards):
    config = write_config(tmp_path, FINETUNE, shards=shards, start__from=str(pretrained))
    undisturbed, killed = tmp_path / "runs/undisturbed", tmp_path / "runs/killed"
    _, outputs = launch("finetune.py", "--config", config, "run.name=undisturbed")
    assert f"starting from {pretrained}/checkpoints/step_00000006 (raw weights)" in outputs[0]
    assert "filters: 2 resized" in outputs[0], "stage 3 grows from 2x2 to 3x3; stage 4 is 1x1 at both sizes"
    assert "head: kept, both label spaces are 'squares'" in outputs[0]
    assert "images: normalised by mixing.mean=[0.485, 0.456, 0.406] and mixing.std=[0.25, 0.25, 0.25]" in outputs[0]

    ranks = Ranks("finetune.py", "--config", config, "run.name=killed")
    kill_when(lambda: read_last_step(killed) >= 3, ranks)
    _, outputs = launch("finetune.py", "--config", config, "run.name=killed")
    assert "resuming" in outputs[0]
    assert re.search("from step [24]$", outputs[0], re.MULTILINE)
    keys = ("step", "loss", "grad_norm", "lr", "batch_digest")
    rows = [[[row[key] for key in keys] for row in read_rows(run)] for run in (undisturbed, killed)]
    assert len(rows[0]) == 6
    assert rows[0] == rows[1]
    states = [
        torch.load(run / "checkpoints/step_00000006/state.pt", weights_only=True) for run in (undisturbed, killed)
    ]
    for part in ("model",):
        for name, tensor in states[0][part].items():
            assert torch.equal(tensor, states[1][part][name]), name
    for index, state in states[0]["optimizer"]["state"].items():
        assert state.keys() == {"step", "exp_avg", "exp_avg_sq", "ema"}
        for key, tensor in state.items():
            assert torch.equal(tensor, states[1]["optimizer"]["state"][index][key])

    summaries = [read_summary(run) for run in (undisturbed, killed)]
    parent = read_summary(pretrained)["digest"]
    assert summaries[0]["parent"] == summaries[1]["parent"] == parent, "the killed one's checkpoint remembers it"
    digest = digest_run(load_config(FinetuneConfig, path=config, overrides=["run.name=x"]), parent=parent)
    assert summaries[0]["digest"] == summaries[1]["digest"] == digest
    assert len(digest) == 64
    assert (summaries[1]["num_attempts"], summaries[1]["image_size"], summaries[1]["num_samples"]) == (2, 48, 52)
    assert summaries[1]["num_left_over_samples"] == 4

    by_weights = {row["weights"]: row for row in read_rows(undisturbed, "evaluations")}
    assert by_weights.keys() == {"raw", "ema"}
    for weights, row in by_weights.items():
        done = run_python(ROOT / "launch/evaluate.py", undisturbed, f"weights={weights}", "--json")
        printed = json.loads(done.stdout.splitlines()[-1])
        (alone,) = printed["results"]
        assert alone["num_images"] == row["num_images"] == NUM_VALIDATION, "each image once, on 2 ranks and on 1"
        assert alone["top1"] == row["top1"]
        assert alone["loss"] == pytest.approx(row["loss"], rel=1e-6), "in the run's own precision"
        assert printed["precision"] == "bf16"
    written = [json.loads(path.read_text()) for path in undisturbed.glob("evaluations/squares_validation*/*.json")]
    found = {found["results"][0]["weights"]: found["results"][0]["top1"] for found in written}
    assert found == {weights: row["top1"] for weights, row in by_weights.items()}, "the second leaves the first alone"


def test_a_start_that_is_no_run_is_refused(tmp_path, shards):
    config = write_config(tmp_path, FINETUNE, shards=shards, start__from=str(tmp_path))
    done = run_python(ROOT / "launch/finetune.py", "--config", config, check=False)
    assert done.returncode == 2
    assert "is neither a run with checkpoints nor a checkpoint" in done.stderr


def test_both_kinds_of_weights_of_a_file_side_by_side_at_two_sizes(tmp_path, shards):
    torch.manual_seed(0)
    states = [timm.create_model("hornet_atto_gf", num_classes=NUM_CLASSES).state_dict() for _ in range(2)]
    torch.save(dict(zip(("model", "model_ema"), states, strict=True)), tmp_path / "x.pth")
    keys = ("model=hornet_atto_gf", f"evaluation.shards={shards}", "sizes=[32,64]", f"output={tmp_path / 'out'}")
    keys += ("crops=[null,0.9]", "probe={neighbours: [3, 30]}")
    done = run_python(ROOT / "launch/evaluate.py", tmp_path / "x.pth", "weights=both", "--json", *keys)
    for weights, other in (("raw", "ema"), ("ema", "raw")):
        assert f"x.pth ({weights} weights under" in done.stderr
        assert f"{other} ones are there too" in done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    views = [(row["image_size"], row["crop_fraction"], row["weights"]) for row in printed["results"]]
    assert views == [(s, c, w) for s in (32, 64) for c in (None, 0.9) for w in ("raw", "ema")]
    assert len({row["loss"] for row in printed["results"]}) == 8
    assert {row["num_images"] for row in printed["results"]} == {NUM_VALIDATION}
    probes = [(probe["weights"], [row["num_images"] for row in probe["results"]]) for probe in printed["probes"]]
    assert probes == [("raw", [NUM_VALIDATION] * 2), ("ema", [NUM_VALIDATION] * 2)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"evaluation.{e}" for e in ("json", "md", "svg")
    ]


@pytest.mark.parametrize("target", ["x.pth", "gone.pth"])
def test_a_link_that_leads_nowhere_is_named(tmp_path, shards, target):
    (tmp_path / "x.pth").symlink_to(target)
    keys = ("model=hornet_atto_7x7", f"evaluation.shards={shards}", "evaluation.image_size=32")
    done = run_python(ROOT / "launch/evaluate.py", tmp_path / "x.pth", *keys, check=False)
    assert done.returncode == 2
    assert "Too many levels" in done.stderr if target == "x.pth" else "is a link to gone.pth" in done.stderr

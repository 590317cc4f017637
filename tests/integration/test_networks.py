"""Networks that are not ours, on two ranks: everything a run does for a HorNet it does for them."""

import json
import shutil

import pytest
import torch

from hornet.training.checkpoints.checkpoint import verify_checkpoint
from hornet.training.checkpoints.weights import read_weights
from tests.integration.conftest import (
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
from tests.integration.test_finetune import FINETUNE

pytestmark = pytest.mark.slow

NETWORKS = {
    "convnext": {"name": "convnext_atto", "arguments": {"depths": [1, 1, 2, 1], "dims": [8, 16, 32, 64]}},
    "swin": {
        "name": "swin_tiny_patch4_window7_224",
        "arguments": {"depths": [1, 2], "embed_dim": 24, "num_heads": [1, 2], "window_size": 4},
    },
    "vit": {
        "name": "vit_tiny_patch16_224",
        "arguments": {"patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3},
    },
    "plug_in": {
        "name": "swin_tiny_gnconv_gf",
        "arguments": {"depths": [1, 2], "embed_dim": 16, "num_heads": [1, 2], "orders": [2, 3], "filter_stages": [1]},
    },
    "hosted": {
        "name": "convnext_tiny_gnconv_gf",
        "arguments": {"depths": [1, 1, 1, 1], "dims": [8, 16, 32, 64]},
    },
    "isotropic": {"name": "hornet_isotropic_deit_small_gf", "arguments": {"width": 16, "depths": [2], "orders": [2]}},
    "resnet": {"name": "resnet18", "arguments": {"layers": [1, 1, 1, 1], "channels": [8, 16, 32, 64]}},
}
"""A depthwise network, one with tables of relative positions and buffers, one with a class token and positions; gnConv
and global filters in two networks of others and in one of a single stage; one with running statistics."""
RESIZED = {
    "convnext": None,
    "swin": None,
    "vit": "resized to the new image size: pos_embed",
    "resnet": None,
    "plug_in": "filters: 2 resized to the grids of the new image size",
    "hosted": "filters: 2 resized to the grids of the new image size",
    "isotropic": "filters: 2 resized to the grids of the new image size",
}
"""What the larger images change; a Swin's tables go by its window, which stays."""
IN_BF16 = ("convnext", "plug_in")
"""Finetuned as by default; the others in what this CPU computes twice as fast."""
EXACT = ("step", "loss", "lr", "grad_norm", "batch_digest", "images_seen")


def describe(network, **changes):
    return {"drop_path_rate": 0.2, **NETWORKS[network], **changes}


@pytest.mark.parametrize(
    ("name", "stage"),
    [("convnext", 2), ("swin", 3), ("vit", 3), ("plug_in", 1), ("hosted", 2), ("isotropic", 3), ("resnet", 2)],
)
def test_another_network_runs_dies_resumes_and_finetunes(tmp_path, shards, name, stage):
    config = write_config(
        tmp_path,
        {**PRETRAIN, "model": describe(name), **({"micro_batch_size": "auto"} if name == "vit" else {})},
        shards=shards,
        zero__stage=stage,
        optimizer__ema_decay=0.9,
    )
    undisturbed, killed = tmp_path / "runs/undisturbed", tmp_path / "runs/killed"
    _, outputs = launch("pretrain.py", "--config", config, "run.name=undisturbed")
    assert ("micro_batch_size: 4 of 4, " in outputs[0]) == (name == "vit")
    ranks = Ranks("pretrain.py", "--config", config, "run.name=killed")
    kill_when(lambda: read_last_step(killed) >= 5, ranks)
    _, outputs = launch("pretrain.py", "--config", config, "run.name=killed")
    assert "resuming" in outputs[0]
    rows = [[{key: row[key] for key in EXACT} for row in read_rows(run)] for run in (undisturbed, killed)]
    assert len(rows[0]) == 12
    assert rows[0] == rows[1]
    for kind in ("raw", "ema"):
        weights = [
            read_weights(verify_checkpoint(run / "checkpoints/step_00000012"), weights=kind)
            for run in (undisturbed, killed)
        ]
        assert weights[0].keys() == weights[1].keys()
        assert all(torch.equal(tensor, weights[1][key]) for key, tensor in weights[0].items())

    finetuning = write_config(
        tmp_path,
        {**FINETUNE, "model": describe(name, activation_checkpointing=True)},
        shards=shards,
        start__from=str(killed),
        start__weights="ema",
        precision="bf16" if name in IN_BF16 else "fp32",
        data__transform__image_size=64,
        evaluation__image_size=64,
    )
    _, outputs = launch("finetune.py", "--config", finetuning)
    assert "head: kept, both label spaces are 'squares'" in outputs[0]
    assert (RESIZED[name] or "head: kept") in outputs[0]
    finetuned = tmp_path / "runs/finetune"
    by_weights = {row["weights"]: row for row in read_rows(finetuned, "evaluations")}
    done = run_python(ROOT / "launch/evaluate.py", finetuned, "weights=ema", "--json")
    (evaluation,) = json.loads(done.stdout)["results"]
    assert evaluation["num_images"] == NUM_VALIDATION
    assert evaluation["top1"] == by_weights["ema"]["top1"]
    assert evaluation["loss"] == pytest.approx(by_weights["ema"]["loss"], rel=1e-2 if name in IN_BF16 else 1e-5)
    run_python(ROOT / "launch/report.py", finetuned)
    page = (finetuned / "report.html").read_text()
    assert NETWORKS[name]["name"] in page
    assert f"{by_weights['ema']['top1']:.2f}" in page


def test_one_file_and_one_config_from_a_folder_elsewhere(tmp_path, shards):
    """As README says: neither is in the repository."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(ROOT / "examples/own_network.py", home / "my_network.py")
    model = {"name": "own_network", "module": "my_network", "arguments": {"width": 8}}
    config = write_config(home, {**PRETRAIN, "model": model}, shards=shards, schedule__num_epochs=1)
    run_python(ROOT / "launch/pretrain.py", "--config", config, cwd=home)
    pretrained = home / "runs/pretrain"
    finetuning = {**FINETUNE, "model": model}
    config = write_config(
        home, finetuning, shards=shards, start__from=str(pretrained), optimizer__layer_decay=None, precision="fp32"
    )
    done = run_python(ROOT / "launch/finetune.py", "--config", config, cwd=home)
    assert "head: kept, both label spaces are 'squares'" in done.stdout
    done = run_python(ROOT / "launch/evaluate.py", home / "runs/finetune", "--json", cwd=home)
    rows = {row["weights"]: row for row in read_rows(home / "runs/finetune", "evaluations")}
    (evaluation,) = json.loads(done.stdout)["results"]
    assert evaluation["loss"] == pytest.approx(rows["raw"]["loss"], rel=1e-5)
    assert evaluation["num_images"] == NUM_VALIDATION

    refused = write_config(home, finetuning, shards=shards, start__from=str(pretrained), run__name="other")
    done = run_python(ROOT / "launch/finetune.py", "--config", refused, cwd=home, check=False)
    assert done.returncode == 2
    assert "optimizer.layer_decay: OwnNetwork does not say which layers it has" in done.stderr


def test_a_network_that_cannot_take_the_images_leaves_no_run_behind(tmp_path, shards):
    config = write_config(tmp_path, {**PRETRAIN, "model": describe("convnext", name="convnext_ato")}, shards=shards)
    codes, outputs = launch("pretrain.py", "--config", config, check=False)
    assert codes == [2, 2]
    assert "model.name: no network is called 'convnext_ato'; did you mean convnext_atto" in outputs[0]
    assert not (tmp_path / "runs").exists()


def test_batch_norms_want_more_than_one_image(tmp_path, shards):
    config = write_config(tmp_path, {**PRETRAIN, "model": describe("resnet")}, shards=shards, micro_batch_size=1)
    codes, outputs = launch("pretrain.py", "--config", config, check=False)
    assert codes == [2, 2]
    assert "micro_batch_size: ResNet takes running statistics over each micro batch" in outputs[0]

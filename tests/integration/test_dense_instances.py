"""A detector on two ranks: killed and resumed to the same bits, over batches in which no image holds a thing."""

import json

import pytest
import torch
import yaml
from pycocotools.coco import COCO

from hornet.runs.directory import read_summary
from hornet.shards.build.build import build
from tests.integration.conftest import ROOT, Ranks, kill_when, launch, read_last_step, read_rows, run_python
from tests.unit.shards.coco_set import plan, write_coco

pytestmark = pytest.mark.slow

NUM_STEPS, NUM_IMAGES = 6, 8
MEASURES = ("mask_ap", "mask_ap50", "box_ap", "box_ap50", "num_images")


def leave_one(annotations):
    """Take away all things but those of the first image."""
    first = annotations["images"][0]["id"]
    annotations["annotations"] = [one for one in annotations["annotations"] if one["image_id"] == first]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A set of which one image to train on holds things: of the two batches of an epoch one holds none, on any rank."""
    folder = tmp_path_factory.mktemp("instances")
    build(plan(write_coco(folder / "train", num_images=NUM_IMAGES, change=leave_one), split="train"))
    build(plan(write_coco(folder / "validation", num_images=5), split="validation"))
    return folder


def write_config(place, folder):
    sets = {"shards": str(place / "set"), "index": str(folder / "index")}
    crop = {"short_edges": [48], "min_edge": 40, "max_edge": 48}
    values = {
        "task": "instances",
        "run": {"name": "things", "root": str(folder / "runs"), "seed": 3},
        "model": {
            "name": "hornet_atto_gf",
            "detector": "cascade_mask_rcnn",
            "pyramid": "horfpn_gf",
            "arguments": {"width": 8, "depths": [1, 1, 1, 1]},
            "layer_scale_init": 0.5,
            "filter_size": 32,
            "drop_path_rate": 0.2,
            "channels": 8,
            "anchor_size": 8,
        },
        "data": {**sets, "transform": {"short_edges": [32, 48], "max_long_edge": 80, "crop": crop}},
        "evaluation": {**sets, "short_edge": 48, "max_long_edge": 96},
        "optimizer": {"clip_grad_norm": 1.0, "layer_decay": 0.9, "ema_decay": 0.9},
        "schedule": {"num_steps": NUM_STEPS, "peak_lr": 1e-3, "warmup_steps": 2, "drop_steps": [5]},
        "cadence": {"log_every_steps": 1, "save_every_steps": 2},
        "precision": "fp32",
        "num_rendered_images": 2,
        "global_batch_size": NUM_IMAGES // 2,
        "micro_batch_size": 1,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_killed_run_ends_with_the_bits_of_an_undisturbed_one_and_is_measured_anew(place, tmp_path):
    path = write_config(place, tmp_path)
    undisturbed, killed = tmp_path / "runs/undisturbed", tmp_path / "runs/killed"
    _, outputs = launch("dense.py", "--config", path, "run.name=undisturbed")
    assert "2 ranks x 2 micro steps x 1" in outputs[0]
    ranks = Ranks("dense.py", "--config", path, "run.name=killed")
    kill_when(lambda: read_last_step(killed) >= 3, ranks)
    _, outputs = launch("dense.py", "--config", path, "run.name=killed")
    assert "resuming" in outputs[0]
    keys = ("step", "loss", "grad_norm", "lr", "batch_digest", "skipped")
    rows = [[[row[key] for key in keys] for row in read_rows(run)] for run in (undisturbed, killed)]
    assert len(rows[0]) == NUM_STEPS
    assert rows[0] == rows[1]
    assert rows[0][-1][-1] == 0, "no step was dropped: the loss of images that hold nothing is a number"
    states = [
        torch.load(run / f"checkpoints/step_{NUM_STEPS:08d}/state.pt", weights_only=True)
        for run in (undisturbed, killed)
    ]
    for name, tensor in states[0]["model"].items():
        assert torch.equal(tensor, states[1]["model"][name]), name

    evaluations = {row["weights"]: row for row in read_rows(undisturbed, "evaluations")}
    assert evaluations.keys() == {"raw", "ema"}
    assert read_rows(killed, "evaluations") == read_rows(undisturbed, "evaluations")
    assert evaluations["raw"]["num_images"] == 5, "each image once"
    summary = read_summary(killed)
    assert summary["best_evaluation"]["mask_ap"] == max(row["mask_ap"] for row in evaluations.values())
    assert summary["digest"] == read_summary(undisturbed)["digest"]
    for weights in evaluations:
        assert (undisturbed / f"images/predictions_{weights}_step_{NUM_STEPS:08d}.png").exists()

    measured = run_python(
        ROOT / "launch/evaluate.py", undisturbed, "weights=ema", f"results={tmp_path / 'found'}", "--json"
    )
    printed = json.loads(measured.stdout.splitlines()[-1])
    assert {key: printed[key] for key in MEASURES} == {key: evaluations["ema"][key] for key in MEASURES}
    truth = COCO(place / "validation/annotations/instances_train2017.json")
    for name in ("bbox.json", "segm.json"):
        rows = json.loads((tmp_path / "found" / name).read_text())
        assert len(truth.loadRes(rows).getAnnIds()) == len(rows) > 0
        assert {row["category_id"] for row in rows} <= {1, 3, 90}

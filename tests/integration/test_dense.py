"""A segmenter on two ranks: from a pretrained backbone to an evaluated run, killed and resumed to the same bits."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from dense.config import DenseConfig
from dense.networks import build_network
from hornet.cli.verify_resume import certify, read_config
from hornet.config import load_config
from hornet.data.augment.mixing import normalise
from hornet.data.segmentation import open_segmentation_evaluation
from hornet.dense.inference import measure
from hornet.drills.launched import LaunchedRun
from hornet.runs.directory import read_summary
from hornet.world import ALONE
from tests.integration.conftest import ROOT, Ranks, kill_when, launch, read_last_step, read_rows, run_python
from tests.unit.data.masked_set import build_set

pytestmark = pytest.mark.slow

MEASURES = ("miou", "macc", "aacc", "num_images", "class_iou")

BACKBONE = {"name": "hornet_atto_gf", "arguments": {"width": 8, "depths": [1, 1, 1, 1]}, "layer_scale_init": 0.5}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A set of images with masks, and the weights of a classifier."""
    import timm

    import hornet  # noqa: F401  registers the models

    folder = tmp_path_factory.mktemp("dense")
    build_set(folder)
    torch.manual_seed(0)
    model = timm.create_model("hornet_atto_gf", width=8, depths=(1, 1, 1, 1), num_classes=7, img_size=32)
    torch.save({"model": model.state_dict()}, folder / "backbone.pth")
    return folder


def write_config(place, folder, **changes):
    """A config file in `folder`; return its path."""
    sets = {"shards": str(place / "set"), "index": str(folder / "index")}
    values = {
        "run": {"name": "dense", "root": str(folder / "runs"), "seed": 3},
        "start": {"from": str(place / "backbone.pth")},
        "model": {**BACKBONE, "filter_size": 32, "drop_path_rate": 0.2, "channels": 8, "layer_decay_depth": 6},
        "data": {**sets, "transform": {"scale": [80, 48], "crop_size": 32}},
        "evaluation": {**sets, "scale": [80, 48], "crop_size": 32, "stride": 24, "flip": True},
        "optimizer": {"clip_grad_norm": 1.0, "layer_decay": 0.9, "ema_decay": 0.9},
        "schedule": {"num_steps": 6, "peak_lr": 1e-3, "warmup_steps": 2},
        "cadence": {"log_every_steps": 1, "save_every_steps": 2},
        "precision": "fp32",
        "num_rendered_images": 2,
        "global_batch_size": 8,
        "micro_batch_size": 2,
        **changes,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_killed_run_ends_with_the_bits_of_an_undisturbed_one_and_measures_what_one_process_does(place, tmp_path):
    path = write_config(place, tmp_path)
    undisturbed, killed = tmp_path / "runs/undisturbed", tmp_path / "runs/killed"
    _, outputs = launch("dense.py", "--config", path, "run.name=undisturbed")
    assert f"backbone from {place / 'backbone.pth'}" in outputs[0]
    ranks = Ranks("dense.py", "--config", path, "run.name=killed")
    kill_when(lambda: read_last_step(killed) >= 3, ranks)
    _, outputs = launch("dense.py", "--config", path, "run.name=killed")
    assert "resuming" in outputs[0]
    keys = ("step", "loss", "grad_norm", "lr", "batch_digest")
    rows = [[[row[key] for key in keys] for row in read_rows(run)] for run in (undisturbed, killed)]
    assert len(rows[0]) == 6
    assert rows[0] == rows[1]
    states = [
        torch.load(run / "checkpoints/step_00000006/state.pt", weights_only=True) for run in (undisturbed, killed)
    ]
    for name, tensor in states[0]["model"].items():
        assert torch.equal(tensor, states[1]["model"][name]), name

    evaluations = {row["weights"]: row for row in read_rows(undisturbed, "evaluations")}
    assert evaluations.keys() == {"raw", "ema"}
    assert read_rows(killed, "evaluations") == read_rows(undisturbed, "evaluations")
    summary = read_summary(killed)
    assert summary["best_evaluation"]["miou"] == max(row["miou"] for row in evaluations.values())
    assert (summary["num_classes"], summary["image_size"], summary["num_attempts"]) == (3, 32, 2)
    assert len(summary["digest"]) == 64
    assert summary["digest"] == read_summary(undisturbed)["digest"]
    for weights in evaluations:
        assert (undisturbed / f"images/predictions_{weights}_step_00000006.png").exists()

    measured = run_python(ROOT / "launch/evaluate.py", undisturbed, "weights=ema", "--json")
    printed = json.loads(measured.stdout.splitlines()[-1])
    assert {key: printed[key] for key in MEASURES} == {key: evaluations["ema"][key] for key in MEASURES}
    config = load_config(DenseConfig, path=path)
    network = build_network(config, num_classes=3)
    network.load_state_dict(states[0]["model"])
    stream = open_segmentation_evaluation(config.evaluation, world=ALONE)
    alone = measure_alone(network.eval(), stream, config)
    row = evaluations["raw"]
    assert alone["num_images"] == row["num_images"] == 9, "each image once, on 2 ranks and on 1"
    assert {**alone, "class_iou": list(alone["class_iou"])} == {key: row[key] for key in alone} | {
        "loss": pytest.approx(row["loss"], rel=1e-6)  # logits are fp32, and another number of threads adds otherwise
    }, "whole numbers are summed"


def measure_alone(network, stream, config):
    """What one process finds, its sums taken over itself alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hornet.training.confusion.sum_over_ranks", lambda values: values)
        found = measure(
            network,
            stream.iterate(),
            config=config.evaluation,
            num_classes=3,
            normalise=lambda batch: normalise(batch, mean=config.mean, std=config.std, device=torch.device("cpu")),
            device=torch.device("cpu"),
        )
    return dataclasses.asdict(found)


class ForkedRun(LaunchedRun):
    """A run whose ranks are forked from what has imported everything: the certificate starts ten of them."""

    @classmethod
    def start(cls, launcher, num_ranks, arguments, *, path, log):
        script, *rest = arguments
        return cls(path=path, log=log, process=ForkedLauncher(Ranks(Path(script).name, *rest, num_ranks=num_ranks)))

    def kill(self):
        self.process.ranks.kill()


class ForkedLauncher:
    """What the certificate asks a launcher."""

    def __init__(self, ranks):
        self.ranks = ranks

    def poll(self):
        codes = [process.poll() for process in self.ranks.processes]
        return None if None in codes else max(codes)

    def wait(self):
        codes, outputs = self.ranks.wait()
        if any(codes):
            pytest.fail("\n---\n".join(outputs))
        return 0


def test_a_run_is_certified(place, tmp_path, monkeypatch):
    monkeypatch.setattr("hornet.drills.certificate.LaunchedRun", ForkedRun)
    script, config = read_config(write_config(place, tmp_path), [])
    folder = tmp_path / "certificate"
    options = SimpleNamespace(ranks=2, other_ranks=1, steps=8, folder=folder, launcher="")
    assert certify(script, config, options)
    same, moved = json.loads((folder / "report.json").read_text())["comparisons"]
    assert same["steps"] == moved["steps"] == [8, 8]
    assert (same["loss_difference"], same["weight_difference"]) == (0, 0), "moments, averages and statistics too"
    assert same["num_elements"] > 3 * sum(p.numel() for p in build_network(config, num_classes=3).parameters())
    assert moved["are_digests_equal"]


def test_a_start_that_is_no_run_ends_in_a_sentence(place, tmp_path):
    path = write_config(place, tmp_path, start={"from": str(tmp_path)})
    done = run_python(ROOT / "launch/dense.py", "--config", path, check=False)
    assert done.returncode == 2
    assert "is neither a run with checkpoints nor a checkpoint" in done.stderr
    assert "Traceback" not in done.stderr

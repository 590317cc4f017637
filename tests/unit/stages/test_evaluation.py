"""How weights are evaluated by themselves: as the run did, or as the original evaluates; what was used is said."""

import json
import math
from pathlib import Path

import pytest

from hornet.cli import evaluate as command
from hornet.config import load_config, to_yaml
from hornet.training.evaluate import Evaluation
from pretrain.config import PretrainConfig

ROOT = Path(__file__).resolve().parents[3]
RESULT = {"top1": 50.0, "top5": 100.0, "loss": 1.5, "num_images": 4, "num_bad_images": 0}


def read(source, *overrides):
    return command.read_config(source, config=None, overrides=list(overrides))


def write_run(folder, *overrides, config="demo/pretrain", config_class=PretrainConfig):
    folder.mkdir()
    (folder / "config.yaml").write_text(
        to_yaml(load_config(config_class, path=ROOT / f"configs/{config}.yaml", overrides=list(overrides)))
    )
    return folder


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_run_is_evaluated_as_it_evaluates(tmp_path, precision):
    run = write_run(tmp_path / "r", f"zero.precision={precision}", "evaluation.crop_fraction=0.9")
    found = read(run)
    assert (found.precision, found.evaluation.crop_fraction, found.evaluation.image_size) == (precision, 0.9, 48)
    assert read(run, "precision=fp32").precision == "fp32"
    inside = run / "checkpoints/step_00000040"
    inside.mkdir(parents=True)
    assert read(inside).precision == precision


def test_a_finetuning_says_its_precision_elsewhere(tmp_path):
    from finetune.config import FinetuneConfig

    run = write_run(tmp_path / "r", "precision=bf16", config="demo/finetune", config_class=FinetuneConfig)
    assert read(run).precision == "bf16"


def test_a_run_that_evaluates_nothing_says_its_size(tmp_path):
    run = write_run(tmp_path / "r", "evaluation=null")
    found = read(run, "evaluation.shards=s")
    assert (found.evaluation.image_size, found.evaluation.crop_fraction) == (48, 0.875)


@pytest.mark.parametrize(
    ("overrides", "image_size", "crop_fraction"),
    [
        (["model=hornet_tiny_gf"], 224, 0.875),
        (["model=hornet_large_gf_img384"], 384, None),
        (["model=hornet_large_gf", "evaluation.image_size=384"], 384, None),
        (["model=hornet_large_gf", "evaluation.image_size=512"], 512, None),
        (["model=hornet_large_gf", "evaluation.image_size=320"], 320, 0.875),
        (["model=hornet_large_gf_img384", "evaluation.crop_fraction=1.0"], 384, 1.0),
        (["model=hornet_tiny_gf", "evaluation.crop_fraction=null"], 224, None),
    ],
)
def test_a_weight_file_is_evaluated_as_the_original_evaluates(tmp_path, overrides, image_size, crop_fraction):
    file = tmp_path / "w.pth"
    file.touch()
    found = read(file, "evaluation.shards=s", *overrides)
    assert (found.precision, found.evaluation.image_size, found.evaluation.crop_fraction) == (
        "fp32",
        image_size,
        crop_fraction,
    )


def report(tmp_path, monkeypatch, *, loss, as_json, overrides=()):
    file = tmp_path / "w.pth"
    file.touch()
    config = read(file, "evaluation.shards=s", "model=hornet_large_gf_img384", *overrides)
    result = Evaluation(**{**RESULT, "loss": loss})
    monkeypatch.setattr("hornet.stages.evaluation.evaluate_weights", lambda config, world: result)
    command.report(config, as_json=as_json)


def test_what_was_used_is_printed(tmp_path, monkeypatch, capsys):
    report(tmp_path, monkeypatch, loss=1.5, as_json=False)
    assert (
        capsys.readouterr()
        .out.splitlines()[0]
        .endswith("(raw weights) on s, split validation; 384 pixels, warped whole, bicubic, computed in fp32")
    )
    report(tmp_path, monkeypatch, loss=1.5, as_json=False, overrides=["precision=bf16", "evaluation.crop_fraction=0.9"])
    assert "384 pixels, centre crop of 0.9, bicubic, computed in bf16" in capsys.readouterr().out


@pytest.mark.parametrize("loss", [1.5, math.nan, math.inf])
def test_json_is_json_and_a_loss_that_is_not_finite_is_said(tmp_path, monkeypatch, capsys, loss):
    report(tmp_path, monkeypatch, loss=loss, as_json=True)
    printed = capsys.readouterr()

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    found = json.loads(printed.out, parse_constant=refuse)
    used = {"precision": "fp32", "image_size": 384, "crop_fraction": None, "interpolation": "bicubic"}
    assert found.items() >= {**RESULT, **used, "loss": loss if math.isfinite(loss) else None}.items()
    assert ("the loss is not finite: the network's output" in printed.err) == (not math.isfinite(loss))


def test_the_help_names_the_keys():
    text = command.EPILOG
    assert "precision" in text
    assert "evaluation.crop_fraction=null" in text

"""Runs of earlier releases, made by their own code (tests/golden/runs), go on under today's as they would have."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest
import yaml

import hornet
from hornet.formats import CHECKPOINT, CONFIG
from hornet.shards.manifest import read_manifest
from hornet.training.checkpoints.checkpoint import seal
from tests.golden.runs.make import FINETUNE, PRETRAIN
from tests.integration.conftest import ROOT, launch, read_rows

pytestmark = pytest.mark.slow

RELEASES = {path.name.removesuffix(".tar.xz"): path for path in (ROOT / "tests/golden/runs").glob("*.tar.xz")}
CONFIGS = {"pretrain": PRETRAIN, "finished": PRETRAIN, "finetune": FINETUNE}


@pytest.fixture(scope="module", params=sorted(RELEASES))
def release(request, tmp_path_factory):
    """A release's folder as it was when its runs were killed; only for reading."""
    folder = tmp_path_factory.mktemp(request.param)
    with tarfile.open(RELEASES[request.param]) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture
def of_release(release, tmp_path):
    shutil.copytree(release, tmp_path, dirs_exist_ok=True)
    return tmp_path


def resume(folder, name, *overrides, check=True):
    """Give the command that began a run, by today's names of settings; return exit codes and rank 0's output."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"run": {"name": name, "seed": 3}, **CONFIGS[name]}))
    places = [
        f"run.root={folder / 'runs'}",
        f"data.shards={folder / 'shards'}",
        f"evaluation.shards={folder / 'shards'}",
    ]
    script = "finetune.py" if name == "finetune" else "pretrain.py"
    codes, outputs = launch(script, "--config", path, *places, *overrides, patch="tests.golden.runs.small", check=check)
    return codes, outputs[0]


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_killed_run_of_an_earlier_release_goes_on_as_it_would_have_there(of_release, stage):
    run = of_release / "runs" / stage
    if not run.exists():
        pytest.skip("none was made by that code")
    expected = json.loads((of_release / "expected.json").read_text())
    _, output = resume(of_release, stage)
    assert f"resuming {run} from step " in output
    rows = read_rows(run)
    assert [row["step"] for row in rows] == [row["step"] for row in expected[stage]]
    for row, wanted in zip(rows, expected[stage], strict=True):
        assert row["batch_digest"] == wanted["batch_digest"], row["step"]
        assert row["loss"] == pytest.approx(wanted["loss"], rel=1e-4), row["step"]
        assert row["grad_norm"] == pytest.approx(wanted["grad_norm"], rel=1e-3), row["step"]
    for row, wanted in zip(read_rows(run, "evaluations"), expected[f"{stage}_evaluations"], strict=True):
        assert row["loss"] == pytest.approx(wanted["loss"], rel=1e-4), row["weights"]
    assert_written_by_today(run)
    codes, output = resume(of_release, stage, check=False)
    assert codes == [0, 0]
    assert "already finished" in output


def assert_written_by_today(run: Path):
    program = f"hornet {hornet.__version__}"
    config = yaml.safe_load((run / "config.yaml").read_text())
    summary, environment = (json.loads((run / f"{name}.json").read_text()) for name in ("summary", "environment"))
    manifest = json.loads((run / summary["checkpoint"] / "manifest.json").read_text())
    assert (config["format"], config["made_by"]) == (CONFIG.number, program)
    assert (manifest["version"], manifest["made_by"]) == (CHECKPOINT.number, program)
    assert summary["made_by"] == program
    assert environment["hornet"] == hornet.__version__


def test_a_finished_run_of_an_earlier_release_is_finished(of_release):
    before = list_files(of_release / "runs/finished")
    _, output = resume(of_release, "finished")
    assert "already finished" in output
    codes, output = resume(of_release, "finished", "optimizer.weight_decay=0.1", check=False)
    assert codes == [2, 2]
    assert "  optimizer.weight_decay: 0.05 -> 0.1\nundo the change to resume it" in output
    assert list_files(of_release / "runs/finished") == before


def test_a_run_that_may_not_go_on_is_left_as_it_was(of_release):
    """Its checkpoint is of another set: that is found before today's config.yaml is written over that of the run."""
    run = of_release / "runs/pretrain"
    (path,) = run.glob("checkpoints/step_*/manifest.json")
    manifest = json.loads(path.read_text())
    manifest["identity"]["stream"] = "of another set"
    path.write_text(json.dumps(seal(manifest)))
    before = list_files(run)
    codes, output = resume(of_release, "pretrain", check=False)
    assert codes == [2, 2]
    assert "was written with stream='of another set', this run has stream=" in output
    assert list_files(run) == before


def list_files(run):
    """The files of a run, apart from the lock."""
    return {
        path.relative_to(run): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and path.suffix in (".yaml", ".json", ".jsonl") and path.name != "owner.json"
    }


def test_a_set_of_an_earlier_release_is_read(release):
    manifest = read_manifest(release / "shards")
    assert {name: split.num_samples for name, split in manifest.splits.items()} == {"train": 52, "validation": 12}

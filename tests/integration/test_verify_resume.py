"""The certificate, given to a real run."""

import json

import pytest

from tests.integration.conftest import ROOT, run_python

pytestmark = pytest.mark.slow


def test_a_real_run_is_certified(pretraining, tmp_path):
    folder = tmp_path / "certificate"
    config = pretraining(optimizer__ema_decay=0.9)
    options = ["--ranks", 1, "--other-ranks", 2, "--steps", 8, "--folder", folder]
    done = run_python(ROOT / "launch/verify_resume.py", "--config", config, *options, "micro_batch_size=4")
    assert done.stdout.count("the same run") == 2
    same, moved = json.loads((folder / "report.json").read_text())["comparisons"]
    assert same["steps"] == moved["steps"] == [8, 8]
    assert same["are_digests_equal"]
    assert moved["are_digests_equal"]
    assert same["loss_difference"] == same["weight_difference"] == 0
    assert (moved["ranks"], moved["loss_difference"] < 2e-2) == ([1, 2], True)
    assert same["num_elements"] > 4 * 100_000, "weights, moments and average"


def test_too_few_steps_and_foreign_folders_are_refused(pretraining, tmp_path):
    script, config = ROOT / "launch/verify_resume.py", pretraining()
    done = run_python(script, "--config", config, "--steps", 4, check=False)
    assert (done.returncode, "--steps: must be at least 8" in done.stderr) == (2, True)
    (tmp_path / "mine").mkdir()
    done = run_python(script, "--config", config, "--folder", tmp_path / "mine", check=False)
    assert (done.returncode, "holds something else" in done.stderr) == (2, True)

"""What keeps a rehearsal from ending well is said; the one that does is tests/slurm's dry run."""

import sys

import pytest

from tests.integration.conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture
def rehearse(monkeypatch, capfd):
    """Return a function that runs the script in this process, and returns its exit code and what it printed."""

    def run(config, *arguments):
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setattr(sys, "argv", ["rehearse.py", "--config", str(config), *map(str, arguments)])
        from launch.slurm.rehearse import main

        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, "".join(capfd.readouterr())

    return run


def test_a_rule_of_the_engine_is_found_and_the_log_kept(rehearse, pretraining, tmp_path):
    config = pretraining(recipe__clipping="paper", optimizer__clip_grad_norm=1.0, zero__stage=1)
    code, output = rehearse(config, "--ranks", 2)
    log = tmp_path / "runs/pretrain.rehearsal/rehearsal.log"
    assert code == 1, output
    assert "ok  batch       2 ranks x 2 micro steps x 2 images = 8" in output
    assert f"before step 2; see {log}" in output
    assert "recipe.clipping: paper clips between two of the 2 micro steps" in log.read_text()


def test_a_batch_that_cannot_be_divided_and_shards_that_are_not_there(rehearse, pretraining, tmp_path):
    config = pretraining()
    code, output = rehearse(config, "--ranks", 3)
    assert (code, "NO  data        global_batch_size 8 cannot be divided over 3 ranks" in output) == (1, True)
    code, output = rehearse(config, "data.shards=/nowhere", "--ranks", 2)
    assert (code, "NO  data        /nowhere" in output) == (1, True)
    assert not (tmp_path / "runs").exists()
    code, output = rehearse(config, "--ranks", 0)
    assert (code, "--ranks: must be at least 1, not 0" in output) == (2, True)


def test_what_is_no_rehearsal_is_not_removed(rehearse, pretraining, tmp_path):
    mine = tmp_path / "runs/pretrain.rehearsal/mine"
    mine.mkdir(parents=True)
    code, output = rehearse(pretraining(), "--ranks", 2)
    assert (code, "holds something else than a rehearsal" in output, mine.exists()) == (1, True, True)


def test_a_dense_config_is_refused(rehearse):
    code, output = rehearse(ROOT / "configs/demo/segmentation.yaml", "--ranks", 2)
    assert code == 2
    assert "is for launch/dense.py, which is not rehearsed; launch/verify_resume.py tries it" in output

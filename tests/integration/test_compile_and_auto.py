"""model.compile and micro_batch_size: auto through the entry scripts, as a user sets them."""

import pytest

from tests.integration.conftest import Ranks, launch, read_last_step, read_rows, wait_until

pytestmark = pytest.mark.slow


def read_course(run):
    return [(row["loss"], row["grad_norm"]) for row in read_rows(run)]


def test_a_compiled_run_learns_what_an_eager_one_does_and_an_eager_one_resumes_it(pretraining, tmp_path):
    """One rank under ZeRO-1, in fp32, without drop path: compiled code draws other numbers from the same seed."""
    settings = {"schedule__num_epochs": 1, "evaluation": None, "model__drop_path_rate": 0.0}
    config = pretraining(**settings, zero__stage=1, zero__precision="fp32")
    launch("pretrain.py", "--config", config, num_ranks=1)
    run = tmp_path / "runs/compiled"
    ranks = Ranks("pretrain.py", "--config", config, "run.name=compiled", "model.compile=true", num_ranks=1)
    wait_until(lambda: read_last_step(run) >= 3, ranks)
    (run / "STOP").touch()
    codes, outputs = ranks.wait()
    assert codes == [0], outputs
    (run / "STOP").unlink()
    launch("pretrain.py", "--config", config, "run.name=compiled", num_ranks=1)
    eager = read_course(tmp_path / "runs/pretrain")
    assert len(eager) == 6
    for mine, theirs in zip(read_course(run), eager, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)


def test_compiling_under_stage_3_is_refused(pretraining):
    codes, outputs = launch("pretrain.py", "--config", pretraining(zero__stage=3, model__compile=True), check=False)
    assert codes == [2, 2]
    assert "model.compile" in outputs[0]


def test_auto_takes_all_of_a_rank_s_share_where_memory_allows_and_keeps_it(pretraining, tmp_path):
    config = pretraining(micro_batch_size="auto", schedule__num_epochs=1, evaluation=None)
    _, outputs = launch("pretrain.py", "--config", config)
    assert "micro_batch_size: 4 of 4, " in outputs[0]
    assert "2 ranks x 1 micro steps x 4" in outputs[0]
    assert [row["step"] for row in read_rows(tmp_path / "runs/pretrain")] == list(range(1, 7))

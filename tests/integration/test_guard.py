"""Bad batches on two ranks: dropped, recorded, and left out by going back, automatically or by hand."""

import json
import shutil

import pytest

from hornet.data.config import StreamConfig, TransformConfig
from hornet.data.loader import open_train_stream
from hornet.digest import batch_digest
from hornet.world import ALONE
from tests.integration.conftest import launch, read_rows

pytestmark = pytest.mark.slow

DATA_STEPS = [0, 1, 2, 3, *range(9, 17)]
GUARD = {
    "window_steps": 4,
    "spike_sigmas": 1000.0,  # of so few steps as this run has
    "max_dropped_in_a_row": 2,
    "rollback_steps": 2,
    "num_batches_after_spike": 1,
}


@pytest.fixture
def batches(shards):
    """The global batches by data step, from the order alone."""
    config = StreamConfig(shards=shards, shuffle_window_shards=2, transform=TransformConfig(image_size=8))
    stream = open_train_stream(config, world=ALONE, seed=1, global_batch_size=8, micro_batch_size=8)
    return list(stream.iterate(0, 17))


def run_poisoned(*arguments, **options):
    return launch("pretrain.py", *arguments, patch="tests.integration.poison", **options)


def assert_left_out(run, batches):
    """The run trained on all batches but those of the window, and its record names the samples of the bad ones."""
    rows = read_rows(run)
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert [row["batch_digest"] for row in rows] == [batch_digest(batches[n].key_hashes) for n in DATA_STEPS]
    assert rows[-1]["epoch"] == pytest.approx(17 / 6)
    dropped = read_rows(run, "dropped_steps")
    assert [(row["step"], row["data_step"], row["reason"]) for row in dropped] == [
        (3, 2, "loss not finite"),
        (7, 6, "spike of the loss"),
        (8, 7, "gradient not finite"),
    ]
    for row in dropped:
        assert row["keys"] == list(batches[row["data_step"]].keys)
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["num_skipped_steps"], summary["skipped_batches"]) == (1, [[4, 9]])
    assert sorted(path.name.partition(".")[0] for path in (run / "set_aside").iterdir()) == ["step_00000006"]


def test_a_run_goes_back_by_itself_or_by_hand_to_the_same_end(pretraining, tmp_path, batches):
    # In place: what a slow disk has not written yet when a run fails does not count.
    config = pretraining(guard=GUARD, evaluation=None, micro_batch_size=4, checkpoints__asynchronous=False)
    arguments = ["--config", config]
    run, by_itself = tmp_path / "runs/pretrain", tmp_path / "by_itself"

    codes, outputs = run_poisoned(*arguments, check=False)
    assert codes == [2, 2], outputs
    assert all("step 8: 2 steps in a row were dropped" in output and "--rollback 4" in output for output in outputs)
    assert all("Traceback" not in output for output in outputs)
    assert json.loads((run / "status.json").read_text())["state"] == "failed"
    shutil.copytree(run, tmp_path / "failed")

    _, outputs = run_poisoned(*arguments, "guard.max_rollbacks=1")
    assert "from step 6" in outputs[0]
    assert "step 8: 2 steps in a row were dropped: going back, to leave out batches 4 to 8" in outputs[0]
    assert "from step 4, without batches 4 to 8" in outputs[0]
    assert_left_out(run, batches)
    run.rename(by_itself)

    (tmp_path / "failed").rename(run)
    _, outputs = run_poisoned(*arguments, "--rollback", "4:5")
    assert "from step 4, without batches 4 to 8" in outputs[0]
    assert_left_out(run, batches)
    losses = [[(row["loss"], row["grad_norm"]) for row in read_rows(folder)] for folder in (run, by_itself)]
    assert losses[0] == losses[1]

"""What goes wrong on real clusters: a disk that fills up on one rank, shards that rot."""

import json
import resource
import shutil
import tarfile

import pytest

from tests.integration.conftest import ROOT, Ranks, kill_when, launch, read_last_step, run_python, wait_until

pytestmark = pytest.mark.slow


def test_a_disk_full_on_one_rank_ends_all_and_keeps_the_checkpoint_before(pretraining, tmp_path):
    config, run = pretraining(schedule__num_epochs=1), tmp_path / "runs/pretrain"
    kill_when(lambda: read_last_step(run) >= 3, ranks := Ranks("pretrain.py", "--config", config))
    assert (run / "checkpoints/latest").read_text() == "step_00000002"

    ranks = Ranks("pretrain.py", "--config", config)
    limit = 64 * 1024  # bytes a file of rank 1 may have: less than its shard
    resource.prlimit(ranks.processes[1].pid, resource.RLIMIT_FSIZE, (limit, limit))
    codes, outputs = ranks.wait()
    assert codes == [2, 2], outputs
    assert "step_00000004: the checkpoint could not be saved" in outputs[1]
    assert "File too large" in outputs[1] or "could not be written" in outputs[1]
    assert "rank 1 failed" in outputs[0]
    assert all("earlier checkpoints are untouched" in output for output in outputs)
    assert (run / "checkpoints/latest").read_text() == "step_00000002"
    assert json.loads((run / "status.json").read_text())["state"] == "failed"

    _, outputs = launch("pretrain.py", "--config", config)
    assert "from step 2" in outputs[0]
    assert json.loads((run / "summary.json").read_text())["steps"] == 6


def test_an_evaluation_that_fails_costs_no_step(pretraining, tmp_path):
    """The checkpoint of its step counts before it begins; it fails at once the next time, not after the same steps."""
    config, run = pretraining(cadence__evaluate_every_steps=4), tmp_path / "runs/pretrain"
    for _ in range(2):
        codes, outputs = launch(
            "pretrain.py", "--config", config, patch="tests.integration.failing_evaluation", check=False
        )
        assert codes == [1, 1], outputs
        assert "out of memory" in outputs[0]
        assert (run / "checkpoints/latest").read_text() == "step_00000004"
    assert "from step 4" in outputs[0]
    assert read_last_step(run) == 4
    launch("pretrain.py", "--config", config)
    assert json.loads((run / "summary.json").read_text())["steps"] == 12


def test_a_run_directory_that_cannot_be_made_is_named(pretraining, tmp_path):
    (tmp_path / "file").write_text("")
    done = run_python(ROOT / "launch/pretrain.py", "--config", pretraining(), f"run.root={tmp_path}/file", check=False)
    assert done.returncode == 2
    assert f"{tmp_path}/file/pretrain: the run directory cannot be written: Not a directory" in done.stderr


def test_a_node_with_another_copy_of_the_set_is_refused_before_anything_is_trained(pretraining, tmp_path, shards):
    other = tmp_path / "other"
    for split in ("train", "validation"):
        images = shards.parent / "images" / split
        run_python("launch/shards.py", "build", images, other, "--split", split, "--samples-per-shard", 13)
    config = pretraining(data__shards="$SET", evaluation__shards="$SET")
    ranks = Ranks("pretrain.py", "--config", config, environments=({"SET": str(shards)}, {"SET": str(other)}))
    codes, outputs = ranks.wait()
    assert codes == [2, 2], outputs
    assert "would not train what rank 0 on" in outputs[1]
    assert "\n  stream: '" in outputs[1]
    assert "\n  evaluated set: '" in outputs[1]
    assert "rank 1 failed: rank 1 on" in outputs[0]
    assert not (tmp_path / "runs").exists()


def test_an_image_that_rots_is_replaced_and_named_or_ends_the_run(pretraining, tmp_path, shards):
    """A byte of one image flips on the disk: with a tolerant rate the run names it, with a strict one all ranks end."""
    rotten = tmp_path / "shards"
    shutil.copytree(shards, rotten)
    with tarfile.open(rotten / "squares-train-000001.tar") as tar:
        member = next(member for member in tar if member.name.endswith(".jpg"))
    with (rotten / "squares-train-000001.tar").open("r+b") as file:
        file.seek(member.offset_data + 100)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    config = pretraining(schedule__num_epochs=2, data__partial_batch="carry")
    arguments = ["--config", config, f"data.shards={rotten}", "evaluation=null"]

    launch("pretrain.py", *arguments, "data.max_bad_sample_rate=0.1")
    run = tmp_path / "runs/pretrain"
    assert json.loads((run / "summary.json").read_text())["num_bad_samples"] == 2, "once an epoch"
    listed = [json.loads(line) for path in (run / "bad_samples").iterdir() for line in path.read_text().splitlines()]
    assert {bad["key"] for bad in listed} == {"squares-train-000001/" + member.name.removesuffix(".jpg")}
    assert {bad["epoch"] for bad in listed} == {0, 1}
    assert all("checksum" in bad["reason"] and bad["substitute"] for bad in listed)

    codes, outputs = launch("pretrain.py", *arguments, "run.name=strict", "data.max_bad_sample_rate=0", check=False)
    assert codes == [2, 2], outputs
    assert all("1 bad samples" in output and "data.max_bad_sample_rate" in output for output in outputs)


def test_a_second_job_in_the_same_run_directory_is_refused_and_the_first_goes_on(pretraining, tmp_path):
    config = pretraining(evaluation=None, schedule__num_epochs=1000)
    run = tmp_path / "runs/pretrain"
    first = Ranks("pretrain.py", "--config", config)
    wait_until(lambda: read_last_step(run) >= 2, first)
    codes, outputs = launch("pretrain.py", "--config", config, check=False)
    assert codes == [2, 2]
    owner = json.loads((run / "owner.json").read_text())
    assert f"process {owner['pid']} on {owner['host']} is training this run; stop it first" in outputs[0]
    assert json.loads((run / "status.json").read_text())["state"] == "running"
    (run / "STOP").touch()
    codes, outputs = first.wait()
    assert codes == [0, 0], outputs
    assert not (run / "owner.json").exists()

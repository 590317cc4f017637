import json
import re
import shutil
import threading
import time
from types import SimpleNamespace

import pytest
import torch

import hornet
from hornet.errors import UserError
from hornet.formats import LaterFormatError
from hornet.training.checkpoints.checkpoint import find_checkpoint, load_checkpoint, seal
from hornet.training.checkpoints.saver import Checkpointer
from hornet.training.checkpoints.state import RunState
from hornet.training.config import RetentionConfig
from hornet.world import ALONE
from tests.unit.training.fakes import CountingEngine

IDENTITY = {"engine": "counting", "stream": "a"}


def make_checkpointer(root, engine, *, find_best=lambda steps: None, require_sole=lambda: None, **retention):
    return Checkpointer(
        root,
        engine=engine,
        identity=IDENTITY,
        description={"model": "m"},
        world=ALONE,
        retention=RetentionConfig(**retention),
        find_best=find_best,
        require_sole=require_sole,
    )


def save(root, step, *, engine=None, **options):
    engine = engine or CountingEngine()
    engine.weight = step
    checkpointer = make_checkpointer(root, engine, **options)
    checkpointer.save(RunState(step=step, num_bad_samples=7, num_skipped_steps=1))
    checkpointer.finish()
    checkpointer.close()
    return root / f"step_{step:08d}"


def find(root):
    return find_checkpoint(root, world=ALONE)


@pytest.fixture(autouse=True)
def _group(alone):
    return alone


def test_save_and_load_is_identity(tmp_path):
    save(tmp_path, 5)
    engine, state = CountingEngine(), RunState()
    found = find(tmp_path)
    load_checkpoint(found, engine=engine, state=state, identity=IDENTITY)
    assert (engine.weight, state) == (5, RunState(step=5, num_bad_samples=7, num_skipped_steps=1))
    assert found.description == {"model": "m"}
    assert (tmp_path / "latest").read_text() == "step_00000005"


def test_no_checkpoint_is_no_error(tmp_path):
    assert find(tmp_path / "absent") is None
    assert find(tmp_path) is None


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, newest=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_00000003", "step_00000004"]


def test_a_half_written_checkpoint_is_not_one(tmp_path):
    save(tmp_path, 1)
    partial = tmp_path / "step_00000002.partial"
    shutil.copytree(tmp_path / "step_00000001", partial)
    assert find(tmp_path).step == 1
    save(tmp_path, 3)
    assert not partial.exists(), "the next save clears it away"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-1] + b"x"), r"its bytes have changed"),
        (lambda file: file.write_text("88"), r"has 2 bytes, its manifest says \d+"),
        (lambda file: file.unlink(), r"is missing"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(tmp_path, capsys, damage, message):
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    damage(newest / "weight.pt")
    assert find(tmp_path).step == 1
    out = capsys.readouterr().out
    assert "step_00000002" in out
    assert re.search(message, out)
    assert save(tmp_path, 2) == newest, "the damaged one is replaced when the run comes by again"
    assert find(tmp_path).step == 2


def test_only_damaged_checkpoints_end_the_run(tmp_path):
    folder = save(tmp_path, 1)
    (folder / "weight.pt").unlink()
    with pytest.raises(UserError, match=r"holds no usable checkpoint.*weight\.pt: is missing.*move it away"):
        find(tmp_path)


def test_foreign_checkpoints_end_the_run(tmp_path):
    (tmp_path / "global_step5").mkdir()
    (tmp_path / "latest").write_text("global_step5")
    with pytest.raises(UserError, match=r"holds no usable checkpoint: it holds global_step5, latest"):
        find(tmp_path)


def test_a_manifest_of_another_kind_is_refused(tmp_path):
    folder = save(tmp_path, 1)
    (folder / "manifest.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(UserError, match="is not a manifest of this pipeline"):
        find(tmp_path)


def test_another_identity_is_refused_with_both_values(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(UserError, match=r"written with stream='a', this run has stream='b'"):
        load_checkpoint(find(tmp_path), engine=CountingEngine(), state=RunState(), identity={**IDENTITY, "stream": "b"})


def test_a_full_disk_leaves_the_earlier_checkpoint_good(tmp_path):
    save(tmp_path, 1)
    engine = CountingEngine(fail_saving=OSError(28, "No space left on device"))
    with pytest.raises(
        UserError, match=r"step_00000002: the checkpoint could not be saved.*No space left.*earlier checkpoints"
    ):
        save(tmp_path, 2, engine=engine)
    assert find(tmp_path).step == 1
    assert (tmp_path / "latest").read_text() == "step_00000001"


def test_damaged_checkpoints_ahead_never_push_out_good_ones(tmp_path):
    """A run that goes on before damaged checkpoints keeps what it saves, and sets the damaged ones aside."""
    root = tmp_path / "checkpoints"
    for step in (10, 20, 30):
        save(root, step)
    for step in (20, 30):
        (root / f"step_{step:08d}" / "weight.pt").write_text("no")
    assert find(root).step == 10
    for step, kept in ((15, [10, 15]), (18, [15, 18]), (25, [18, 25])):
        save(root, step, newest=2)
        assert sorted(path.name for path in root.glob("step*")) == [f"step_{kept_step:08d}" for kept_step in kept]
    assert sorted(path.name[:13] for path in (tmp_path / "set_aside").iterdir()) == ["step_00000020", "step_00000030"]
    assert find(root).step == 25


@pytest.mark.parametrize(
    "change",
    [{"step": 3}, {"state": {}}, {"identity": {}}, {"files": {}}, {"version": None}, {"sha256": "0"}],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_manifest_is_a_damaged_checkpoint(tmp_path, change):
    save(tmp_path, 1)
    path = save(tmp_path, 2) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert find(tmp_path).step == 1


def rewrite_manifest(folder, change):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(seal(manifest)))


def test_a_manifest_says_its_format_and_release(tmp_path):
    manifest = json.loads((save(tmp_path, 1) / "manifest.json").read_text())
    assert (manifest["version"], manifest["made_by"]) == (2, f"hornet {hornet.__version__}")


def test_a_checkpoint_of_a_later_release_is_refused_and_not_passed_over(tmp_path):
    """To go on from the one before it would undo what the later release has trained."""
    save(tmp_path, 1)
    rewrite_manifest(save(tmp_path, 2), lambda manifest: manifest.update(version=9, made_by="hornet 4.1.0"))
    message = (
        r"step_00000002/manifest\.json: was written by hornet 4\.1\.0 in format 9, .*; go on with hornet 4\.1\.0 or"
    )
    with pytest.raises(LaterFormatError, match=message):
        find(tmp_path)


def test_a_checkpoint_of_format_1_is_read(tmp_path):
    """The code before 0.1.0 kept its counters apart from the step, and could leave no batches out."""

    def make_old(manifest):
        del manifest["state"], manifest["made_by"]
        manifest.update(version=1, counters={"num_bad_samples": 7, "num_skipped_steps": 1})

    rewrite_manifest(save(tmp_path, 5), make_old)
    engine, state = CountingEngine(), RunState()
    load_checkpoint(find(tmp_path), engine=engine, state=state, identity=IDENTITY)
    assert (engine.weight, state) == (5, RunState(step=5, num_bad_samples=7, num_skipped_steps=1))


def test_what_an_earlier_release_did_not_count_has_not_happened(tmp_path):
    rewrite_manifest(save(tmp_path, 5), lambda manifest: manifest["state"].pop("skipped_batches"))
    assert find(tmp_path).state["skipped_batches"] == []


def test_a_renamed_checkpoint_is_not_taken_for_another_step(tmp_path):
    save(tmp_path, 1).rename(tmp_path / "step_00000007")
    with pytest.raises(UserError, match="its content has changed"):
        find(tmp_path)


def test_what_cannot_be_removed_does_not_end_the_run(tmp_path, capsys):
    (tmp_path / "step_00000001.partial").write_text("a file where a folder would be")
    save(tmp_path, 2)
    assert find(tmp_path).step == 2
    assert "warning: an old checkpoint could not be cleared away" in capsys.readouterr().out


def test_what_is_written_is_the_state_at_the_step_however_long_the_writing_takes(tmp_path, monkeypatch):
    """The disk waits until the run has gone on; the file holds the weights of the saved step all the same."""
    may_write = threading.Event()
    write = torch.save
    monkeypatch.setattr(torch, "save", lambda *arguments: (may_write.wait(), write(*arguments)))
    engine = WeightEngine()
    checkpointer = make_checkpointer(tmp_path, engine)
    checkpointer.save(RunState(step=1))
    engine.weights += 1
    checkpointer.poll()
    assert find(tmp_path) is None, "it does not count before it is written"
    may_write.set()
    checkpointer.save(RunState(step=2))  # the one before is finished first
    assert find(tmp_path).step == 1
    checkpointer.finish()
    checkpointer.close()
    found = [torch.load(tmp_path / f"step_{step:08d}/weights.pt") for step in (1, 2)]
    assert [tensor.tolist() for tensor in found] == [[0.0] * 5, [1.0] * 5]
    assert find(tmp_path).step == 2


class WeightEngine(CountingEngine):
    def __init__(self):
        super().__init__()
        self.weights = torch.zeros(5)

    def save(self, folder, writer):
        writer.take(folder / "weights.pt", self.weights)


def test_a_checkpoint_being_written_counts_at_the_first_look_after(tmp_path):
    checkpointer = make_checkpointer(tmp_path, CountingEngine())
    checkpointer.save(RunState(step=1))
    deadline = time.monotonic() + 30
    while find(tmp_path) is None and time.monotonic() < deadline:
        checkpointer.poll()
        time.sleep(0.01)
    assert find(tmp_path).step == 1
    checkpointer.close()


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_disk_that_fails_in_the_thread_is_told_at_the_end(tmp_path, monkeypatch, asynchronous):
    def fail(*_):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    save(tmp_path, 1)
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(UserError, match=r"step_00000002: the checkpoint could not be saved.*write failed.*earlier"):
        save(tmp_path, 2, asynchronous=asynchronous)
    assert find(tmp_path).step == 1


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    save(tmp_path, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=7))
    with pytest.raises(UserError, match=r"it takes 0.00 GB, but the disk has 0.00 GB free; make room, or keep fewer"):
        save(tmp_path, 2)
    assert not list((tmp_path / "step_00000002.partial").iterdir())
    assert find(tmp_path).step == 1


def test_the_every_nth_and_the_best_are_kept_beside_the_newest(tmp_path):
    best = {2: 0.7, 3: 0.9, 5: 0.8}
    for step in range(1, 8):
        save(
            tmp_path,
            step,
            newest=2,
            every_steps=4,
            best=True,
            find_best=lambda steps: max(steps, key=lambda kept: best.get(kept, 0)),
        )
    assert sorted(path.name for path in tmp_path.glob("step*")) == [f"step_{step:08d}" for step in (3, 4, 6, 7)]


def test_a_checkpoint_the_run_cannot_go_on_from_is_passed_over(tmp_path, capsys):
    save(tmp_path, 1)
    save(tmp_path, 2)

    def require(checkpoint):
        if checkpoint.step > limit:
            raise UserError(f"{checkpoint.folder.name}: is too new")

    limit = 1
    assert find_checkpoint(tmp_path, world=ALONE, require=require).step == 1
    assert "passing over a checkpoint: step_00000002: is too new" in capsys.readouterr().out
    limit = 0
    with pytest.raises(UserError, match="holds no usable checkpoint: step_00000002: is too new; step_00000001"):
        find_checkpoint(tmp_path, world=ALONE, require=require)


def test_all_of_the_state_comes_back(tmp_path):
    state = RunState(step=3, num_dropped_in_a_row=1, recent_losses=[0.1, 1 / 3], skipped_batches=[[1, 2]])
    checkpointer = make_checkpointer(tmp_path, CountingEngine())
    checkpointer.save(state)
    checkpointer.finish()
    checkpointer.close()
    found = RunState()
    load_checkpoint(find(tmp_path), engine=CountingEngine(), state=found, identity=IDENTITY)
    assert found == state


def test_a_job_that_was_taken_over_publishes_nothing(tmp_path, alone):
    def refuse():
        raise UserError("another job has taken this run over")

    checkpointer = make_checkpointer(tmp_path, CountingEngine(), require_sole=refuse)
    checkpointer.save(RunState(step=1))
    with pytest.raises(UserError, match="could not be saved: another job has taken this run over"):
        checkpointer.finish()
    checkpointer.close()
    assert not [path for path in tmp_path.iterdir() if not path.name.endswith(".partial")]

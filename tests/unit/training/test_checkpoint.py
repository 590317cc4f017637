import json
import re
import shutil

import pytest

from hornet.errors import UserError
from hornet.training.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from hornet.training.loop import RunState
from hornet.world import ALONE
from tests.unit.training.fakes import CountingEngine

IDENTITY = {"engine": "counting", "num_ranks": 1}


def save(root, step, *, engine=None, keep=3):
    engine = engine or CountingEngine()
    engine.weight = step
    state = RunState(step=step, num_bad_samples=7, num_skipped_steps=1)
    return save_checkpoint(
        root, engine=engine, state=state, identity=IDENTITY, description={"model": "m"}, world=ALONE, keep=keep
    )


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
        save(tmp_path, step, keep=2)
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
        (lambda file: file.write_text("8"), r"its bytes have changed"),
        (lambda file: file.write_text("88"), r"has 2 bytes, its manifest says 1"),
        (lambda file: file.unlink(), r"is missing"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(tmp_path, capsys, damage, message):
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    damage(newest / "weight.json")
    assert find(tmp_path).step == 1
    out = capsys.readouterr().out
    assert "step_00000002" in out
    assert re.search(message, out)
    assert save(tmp_path, 2) == newest, "the damaged one is replaced when the run comes by again"
    assert find(tmp_path).step == 2


def test_only_damaged_checkpoints_end_the_run(tmp_path):
    folder = save(tmp_path, 1)
    (folder / "weight.json").unlink()
    with pytest.raises(UserError, match=r"holds no usable checkpoint.*weight\.json: is missing.*move it away"):
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
    with pytest.raises(UserError, match=r"written with num_ranks=1, this run has num_ranks=2"):
        load_checkpoint(
            find(tmp_path), engine=CountingEngine(), state=RunState(), identity={**IDENTITY, "num_ranks": 2}
        )


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
    for step in (10, 20, 30):
        save(tmp_path, step)
    for step in (20, 30):
        (tmp_path / f"step_{step:08d}" / "weight.json").write_text("no")
    assert find(tmp_path).step == 10
    save(tmp_path, 15, keep=2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[:3] == ["latest", "step_00000010", "step_00000015"]
    assert [name.split(".")[1] for name in names[3:]] == ["damaged", "damaged"]
    assert find(tmp_path).step == 15


@pytest.mark.parametrize(
    "change",
    [{"step": 3}, {"counters": {}}, {"identity": {}}, {"files": {}}, {"version": None}, {"sha256": "0"}],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_manifest_is_a_damaged_checkpoint(tmp_path, change):
    save(tmp_path, 1)
    path = save(tmp_path, 2) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert find(tmp_path).step == 1


def test_a_renamed_checkpoint_is_not_taken_for_another_step(tmp_path):
    save(tmp_path, 1).rename(tmp_path / "step_00000007")
    with pytest.raises(UserError, match="its content has changed"):
        find(tmp_path)


def test_what_cannot_be_removed_does_not_end_the_run(tmp_path, capsys):
    (tmp_path / "step_00000001.partial").write_text("a file where a folder would be")
    save(tmp_path, 2)
    assert find(tmp_path).step == 2
    assert "warning: an old checkpoint could not be cleared away" in capsys.readouterr().out

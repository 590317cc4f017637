import json
from pathlib import Path

import pytest

from hornet.config import build_config, load_config, to_values
from hornet.errors import UserError
from hornet.runs.directory import RunConfig, RunDirectory
from hornet.training.checkpoints.checkpoint import Checkpoint
from hornet.training.checkpoints.state import RunState
from hornet.training.config import GuardConfig
from hornet.training.guard import DroppedInARowError
from hornet.training.resume import adopt, begin_attempt, find_fitting_start
from hornet.training.rollback import go_back, refuse_new_windows
from hornet.training.summary import report_finished
from hornet.world import ALONE
from pretrain.config import PretrainConfig

ROOT = Path(__file__).resolve().parents[3]
BACK = GuardConfig(max_rollbacks=1, rollback_steps=5, num_batches_after_spike=3)


@pytest.fixture
def directory(tmp_path, alone, monkeypatch):
    """A run whose checkpoints are folders; the windows they were trained under stand in a file in them."""
    directory = RunDirectory(RunConfig(name="r", root=tmp_path), world=ALONE)
    directory.checkpoints.mkdir(parents=True)

    def find(root, *, world, require):
        reasons = []
        for folder in sorted(root.glob("step_*"), reverse=True):
            state = {"skipped_batches": json.loads((folder / "windows").read_text())}
            found = Checkpoint(folder=folder, step=int(folder.name[5:]), identity={}, description={}, state=state)
            try:
                require(found)
                return found
            except UserError as error:
                reasons.append(str(error))
        if reasons:
            raise UserError("; ".join(reasons))
        return None

    monkeypatch.setattr("hornet.training.resume.find_checkpoint", find)
    return directory


def save(directory, *steps, windows=()):
    for step in steps:
        folder = directory.checkpoints / f"step_{step:08d}"
        folder.mkdir()
        (folder / "windows").write_text(json.dumps(windows))


def start(directory, *windows):
    """As an attempt begins: find, adopt; return the step gone on from and the names of what lies set aside."""
    found = find_fitting_start(directory, GuardConfig(skip_batches=windows), world=ALONE)
    adopt(directory, found, world=ALONE)
    aside = sorted(path.name.partition(".")[0] for path in directory.path.glob("set_aside/*"))
    return None if found.checkpoint is None else found.checkpoint.step, aside


def list_steps(directory):
    return sorted(int(path.name[5:]) for path in directory.checkpoints.glob("step_*"))


def test_without_windows_the_newest_checkpoint_is_taken_and_nothing_written(directory):
    save(directory, 10, 20, 30)
    assert start(directory) == (30, [])
    assert [path.name for path in directory.path.iterdir()] == ["checkpoints"]


def test_going_back_by_hand_sets_later_checkpoints_aside_once(directory):
    save(directory, 10, 20, 30)
    assert start(directory, (15, 25)) == (10, ["step_00000020", "step_00000030"])
    assert list_steps(directory) == [10]
    assert (directory.checkpoints / "latest").read_text() == "step_00000010"
    save(directory, 20, 30, windows=[[15, 25]])
    assert start(directory, (15, 25)) == (30, ["step_00000020", "step_00000030"]), "the same command goes on"
    assert start(directory) == (30, ["step_00000020", "step_00000030"]), "so does one that forgets the window"
    assert directory.read_skipped_batches() == [{"first": 15, "stop": 25, "by": "guard.skip_batches"}]


def test_a_window_ahead_changes_no_start(directory):
    save(directory, 10, 20)
    assert start(directory, (20, 30)) == (20, [])


def test_a_second_window_keeps_the_first(directory):
    save(directory, 10)
    start(directory, (15, 25))
    save(directory, 20, 30, windows=[[15, 25]])  # step 20 is at data step 30
    assert start(directory, (31, 40)) == (20, ["step_00000030"])
    state = RunState(step=20)
    begin_attempt(directory, state, world=ALONE)
    assert state.skipped_batches == [[15, 25], [31, 40]]


def test_a_window_before_all_checkpoints_changes_nothing(directory):
    save(directory, 10, 20)
    with pytest.raises(UserError, match=r"step_00000010: was trained on other batches than skipped_batches\.json"):
        start(directory, (5, 8))
    assert list_steps(directory) == [10, 20]
    assert directory.read_skipped_batches() == []


def spike(*, step, in_a_row, windows=()):
    return DroppedInARowError(RunState(step=step, num_dropped_in_a_row=in_a_row, skipped_batches=list(windows)))


def test_a_run_goes_back_before_the_spike_and_leaves_its_batches_out(directory):
    save(directory, 10, 20, 26)
    checkpoint = go_back(directory, BACK, spike(step=30, in_a_row=4), world=ALONE)  # steps 26 to 29 were dropped
    assert checkpoint.step == 20
    (row,) = directory.read_skipped_batches()
    assert (row["first"], row["stop"], row["by"], row["dropped_steps"]) == (20, 33, "guard", [27, 30])
    assert list_steps(directory) == [10, 20]
    assert start(directory) == (20, ["step_00000026"]), "a later attempt finds the same"


def test_how_often_it_goes_back_is_counted_over_all_attempts(directory):
    save(directory, 10, 20)
    go_back(directory, BACK, spike(step=30, in_a_row=4), world=ALONE)
    again = spike(step=31, in_a_row=4, windows=[[20, 33]])
    with pytest.raises(
        UserError,
        match=r"step 31: 4 steps in a row were dropped, and the run has gone back 1 times \(guard\.max_rollbacks=1\); "
        r".*dropped_steps\.jsonl.*--rollback 35, raise guard\.max_rollbacks, .*lower schedule\.peak_lr",
    ):
        go_back(directory, BACK, again, world=ALONE)
    twice = GuardConfig(max_rollbacks=2, rollback_steps=5, num_batches_after_spike=3)
    assert go_back(directory, twice, again, world=ALONE).step == 20
    assert directory.read_skipped_batches()[1]["first"] == 33
    assert directory.read_skipped_batches()[1]["stop"] == 31 + 13 + 3, "counted in batches, not steps"


def test_by_default_it_does_not_go_back(directory):
    save(directory, 10)
    with pytest.raises(UserError, match=r"gone back 0 times \(guard\.max_rollbacks=0\)"):
        go_back(directory, GuardConfig(), spike(step=300, in_a_row=20), world=ALONE)
    assert directory.read_skipped_batches() == []


@pytest.mark.parametrize("steps", [(), (22, 26)])
def test_without_an_early_checkpoint_it_says_so(directory, steps):
    save(directory, *steps)
    with pytest.raises(UserError, match=r"no checkpoint lies guard\.rollback_steps=5 steps before the first \("):
        go_back(directory, BACK, spike(step=30, in_a_row=4), world=ALONE)
    assert directory.read_skipped_batches() == []


def test_dropped_steps_beyond_the_checkpoint_are_forgotten_unless_left_out(directory):
    for step in (5, 12, 14):
        directory.append("dropped_steps", {"step": step, "data_step": step - 1})
    start(directory, (13, 20))
    begin_attempt(directory, RunState(step=10), world=ALONE)
    assert [row["step"] for row in directory.read("dropped_steps")] == [5, 14]


def test_a_finished_run_refuses_windows_it_does_not_know(directory):
    start(directory, (5, 8))
    refuse_new_windows(directory, GuardConfig(skip_batches=((5, 8),)))
    with pytest.raises(UserError, match=r"is finished, so guard\.skip_batches=\[\[9, 11\]\] .* move its summary\.json"):
        refuse_new_windows(directory, GuardConfig(skip_batches=((9, 11),)))


def test_an_unreadable_list_of_windows_ends_the_run(directory):
    directory.skipped_batches.write_text("[{")
    with pytest.raises(UserError, match=r"skipped_batches\.json: is not JSON .*mend it"):
        start(directory)


def test_a_finished_run_that_is_given_a_rollback_says_how_to_go_on(directory):
    values = to_values(load_config(PretrainConfig, path=ROOT / "configs/demo/pretrain.yaml"))
    config = build_config(PretrainConfig, values, source="test")
    directory.prepare(config, has_checkpoint=False)
    directory.write_summary({"steps": 30})
    values["guard"]["skip_batches"] = [[5, 8]]
    with pytest.raises(UserError, match=r"is finished, so guard\.skip_batches=\[\[5, 8\]\] \(or --rollback\)"):
        report_finished(directory, build_config(PretrainConfig, values, source="test"), world=ALONE)

"""Where a run leaves its trunk, and what is refused since it would not be the run that begins at step 0.

That it is that run, to the bit, is shown in tests/integration/test_branch.py.
"""

import json
import shutil
from pathlib import Path

import pytest

from finetune.config import FinetuneConfig
from hornet.config import ConfigError, load_config
from hornet.errors import UserError
from hornet.runs.begun import write_config
from hornet.runs.directory import RunDirectory
from hornet.training.branch import begin_branch, find_branch, read_branch, split_branch
from hornet.training.checkpoints.saver import Checkpointer
from hornet.training.checkpoints.state import RunState
from hornet.training.config import RetentionConfig
from hornet.training.schedule import plan_schedule
from hornet.world import ALONE
from pretrain.config import PretrainConfig
from tests.unit.training.fakes import CountingEngine

DEMO = Path(__file__).resolve().parents[3] / "configs/demo"
WSD = ("schedule.shape=wsd", "schedule.cooldown_share=0.5", "schedule.warmup_epochs=1", "micro_batch_size=4")


@pytest.fixture(autouse=True)
def _group(alone):
    return alone


def load(folder, *overrides, config_class=PretrainConfig, path="pretrain.yaml"):
    asked = [f"run.root={folder}", "run.name=branch", *WSD, *overrides]
    return load_config(config_class, path=DEMO / path, overrides=asked)


@pytest.fixture
def trunk(tmp_path):
    """A run of 40 steps of 10 an epoch, 20 of them cooldown, with checkpoints of steps 5 to 35."""
    return make_trunk(tmp_path, "schedule.num_epochs=4")


def make_trunk(folder, *overrides, skipped=(), num_ranks=1, config_class=PretrainConfig, path="pretrain.yaml"):
    config = load(folder, "run.name=trunk", *overrides, config_class=config_class, path=path)
    run = folder / "trunk"
    run.mkdir()
    write_config(run, config)
    checkpointer = Checkpointer(
        run / "checkpoints",
        engine=CountingEngine(),
        identity={},
        description={"num_ranks": num_ranks, "micro_batch_size": 4},
        world=ALONE,
        retention=RetentionConfig(newest=9, asynchronous=False),
        find_best=lambda steps: None,
        require_sole=lambda: None,
    )
    for step in range(5, 40, 5):
        checkpointer.save(RunState(step=step, skipped_batches=list(skipped)))
    checkpointer.close()
    return run


def find(folder, *overrides, at="", require=lambda checkpoint: None, **kind):
    config = load(folder, f"run.branch_from={folder}/trunk{at}", *overrides, **kind)
    schedule = plan_schedule(config.schedule, steps_per_epoch=10)
    return find_branch(config, schedule, steps_per_epoch=10, require=require, world=ALONE)


def refusal(folder, *overrides, **options):
    with pytest.raises(UserError) as caught:
        find(folder, *overrides, **options)
    text = str(caught.value)
    assert text.startswith("run.branch_from: ")
    return text


@pytest.mark.parametrize(
    ("overrides", "step"),
    [
        (["schedule.num_epochs=3"], 15),  # 30 steps, 15 of them cooldown
        (["schedule.num_epochs=2", "schedule.cooldown=linear", "schedule.min_lr=0"], 10),
        (["schedule.num_epochs=2.2"], 10),  # 11 steps before the cooldown: the newest up to there
        (["schedule.num_epochs=8"], 20),  # longer than the trunk, which cools down after 20
        (["schedule.num_epochs=8", "schedule.cooldown_share=0.1"], 20),
    ],
)
def test_a_run_leaves_its_trunk_at_the_newest_checkpoint_before_a_cooldown(tmp_path, trunk, overrides, step):
    branch = find(tmp_path, *overrides)
    assert (branch.trunk, branch.checkpoint.step) == (trunk, step)
    assert find(tmp_path, *overrides, at="@5").checkpoint.step == 5


def test_a_damaged_checkpoint_is_passed_over(tmp_path, trunk):
    (trunk / "checkpoints/step_00000015/weight.pt").write_bytes(b"no")
    assert find(tmp_path, "schedule.num_epochs=3").checkpoint.step == 10
    assert "weight.pt: has 2 bytes" in refusal(tmp_path, "schedule.num_epochs=3", at="@15")


def test_a_run_without_a_trunk_begins_by_itself(tmp_path):
    config = load(tmp_path)
    schedule = plan_schedule(config.schedule, steps_per_epoch=10)
    assert find_branch(config, schedule, steps_per_epoch=10, require=lambda _: None, world=ALONE) is None
    assert split_branch("/data/me@here/runs/t") == (Path("/data/me@here/runs/t"), None)
    assert split_branch("/data/me@here/runs/t@012") == (Path("/data/me@here/runs/t"), 12)


def test_a_step_in_a_cooldown_is_refused_with_whose(tmp_path, trunk):
    assert refusal(tmp_path, "schedule.num_epochs=3", at="@20") == (
        "run.branch_from: step 20 lies in this run's cooldown, which begins after step 15; name an earlier one"
    )
    assert refusal(tmp_path, "schedule.num_epochs=8", at="@25") == (
        f"run.branch_from: step 25 lies in {trunk}'s cooldown, which begins after step 20; name an earlier one"
    )


def test_checkpoints_that_are_not_there_are_told(tmp_path, trunk):
    assert refusal(tmp_path, "schedule.num_epochs=3", at="@12") == (
        f"run.branch_from: {trunk} has no checkpoint of step 12, it has those of steps 5, 10, 15, 20, 25, 30, 35; let "
        "the trunk keep it (cadence.save_every_steps, checkpoints.every_steps)"
    )
    shutil.rmtree(trunk / "checkpoints")
    assert "has no whole checkpoint up to step 15, after which a cooldown begins (it has none)" in refusal(
        tmp_path, "schedule.num_epochs=3"
    )
    (trunk / "config.yaml").unlink()
    assert refusal(tmp_path) == f"run.branch_from: {trunk} is no run directory, it has no config.yaml"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("run.seed=7", "run.seed: 0 -> 7"),
        ("schedule.peak_lr=1e-3", "schedule.peak_lr: 0.002 -> 0.001"),
        ("optimizer.ema_decay=0.5", "optimizer.ema_decay: "),
        ("data.transform.flip_probability=0.1", "data.transform.flip_probability: "),
        ("guard.spike_sigmas=3", "guard.spike_sigmas: 6.0 -> 3.0"),
        ("zero.stage=3", "zero.stage: 2 -> 3 (of the last bits; it may change once the branch has begun)"),
    ],
)
def test_what_changes_what_was_learned_is_refused_by_its_key(tmp_path, trunk, override, line):
    text = refusal(tmp_path, "schedule.num_epochs=3", override)
    assert f"\n  {line}" in text
    assert "num_epochs" not in text
    assert text.endswith("\nundo the change, or leave run.branch_from out")
    assert "was trained with other settings, so a branch would not be the run that begins at step 0" in text


def test_a_trunk_under_a_cosine_is_refused(tmp_path):
    make_trunk(tmp_path, "schedule.shape=cosine", "schedule.cooldown_share=0.2", "schedule.num_epochs=4")
    assert "\n  schedule.shape: 'cosine' -> 'wsd'\n" in refusal(tmp_path, "schedule.num_epochs=3")
    with pytest.raises(
        ConfigError, match=r"run\.branch_from: needs schedule\.shape=wsd; under a cosine every learning"
    ):
        load(tmp_path, "run.branch_from=runs/x", "schedule.shape=cosine", "schedule.cooldown_share=0.2")


def test_other_batches_and_other_sums_are_refused(tmp_path):
    trunk = make_trunk(tmp_path, "schedule.num_epochs=4", skipped=[[2, 4]], num_ranks=1)
    folder = trunk / "checkpoints/step_00000015"
    assert refusal(tmp_path, "schedule.num_epochs=3") == (
        f"run.branch_from: {folder} was trained without the batches [[2, 4]], this run leaves out []; name the same in "
        "guard.skip_batches"
    )
    same = "guard.skip_batches=[[2, 4], [17, 19]]"  # the later window has no effect before the branch
    assert find(tmp_path, "schedule.num_epochs=3", same).checkpoint.step == 15
    assert refusal(tmp_path, "schedule.num_epochs=3", same, "micro_batch_size=8").endswith(
        "was trained with micro_batch_size=4, this run has 8; begin it as the trunk was trained, it may go on otherwise"
    )
    assert find(tmp_path, "schedule.num_epochs=3", same, "micro_batch_size=auto").checkpoint.step == 15


def test_other_ranks_and_another_set_are_refused(tmp_path):
    make_trunk(tmp_path, "schedule.num_epochs=4", num_ranks=8)
    assert "was trained with num_ranks=8, this run has 1; begin it" in refusal(tmp_path, "schedule.num_epochs=3")

    def require(checkpoint):
        raise UserError(f"step {checkpoint.step}: was written with stream='a', this run has stream='b'")

    text = refusal(tmp_path, "schedule.num_epochs=3", require=require)
    assert text == "run.branch_from: step 15: was written with stream='a', this run has stream='b'"


def test_finetunings_branch_too_and_name_what_they_start_from(tmp_path):
    kind = {"config_class": FinetuneConfig, "path": "finetune.yaml"}
    make_trunk(tmp_path, "schedule.num_epochs=4", "start.from=runs/a", **kind)
    assert find(tmp_path, "schedule.num_epochs=3", "start.from=runs/a", **kind).checkpoint.step == 15
    text = refusal(tmp_path, "schedule.num_epochs=3", "start.from=runs/b", **kind)
    assert "\n  start.from: 'runs/a' -> 'runs/b'\n" in text


def test_a_branch_begins_with_the_trunks_rows_and_remembers_it(tmp_path, trunk, capsys):
    for name in ("metrics", "evaluations"):
        rows = [{"step": step, "value": step / 2} for step in range(5, 40, 5)]
        (trunk / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = load(tmp_path, "schedule.num_epochs=3")
    run = RunDirectory(config.run, world=ALONE)
    run.prepare(config, has_checkpoint=False)
    assert read_branch(run) is None
    begin_branch(run, find(tmp_path, "schedule.num_epochs=3"), world=ALONE)
    assert (
        [row["step"] for row in run.read("metrics")] == [row["step"] for row in run.read("evaluations")] == [5, 10, 15]
    )
    assert run.read("norms") == []
    assert read_branch(run) == {"trunk": str(trunk), "step": 15}
    assert f"branch: is {trunk} up to step 15, and begins there" in capsys.readouterr().out

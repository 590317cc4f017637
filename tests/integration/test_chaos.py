"""A short `make chaos`, and that its laws can be broken."""

import json
import shutil
from random import Random

import pytest

from tests.chaos.__main__ import STEPS_PER_EPOCH, format_figures, rage
from tests.chaos.attempts import MOMENTS, Attempt, BrokenLawError, Run, identify
from tests.chaos.damage import Damage, hurt_checkpoint, list_whole
from tests.chaos.record import Record


@pytest.mark.slow
def test_killed_and_damaged_a_run_is_the_undisturbed_one(tmp_path):
    output = tmp_path / "figures.json"
    figures = rage(tmp_path, kills=5, seed=2, damage_rate=1.0, output=output)
    assert {moment: row["kills"] for moment, row in figures["by_moment"].items()} == dict.fromkeys(MOMENTS, 1)
    assert json.loads(output.read_text()) == figures
    assert sum(figures["damage"].values()) >= 1
    assert figures["are_weights_equal"]
    assert figures["steps"] == STEPS_PER_EPOCH * (5 + 2)


def write_run(folder, *, num_steps=6, steps_on_disk=(3, 6)):
    folder.mkdir()
    rows = [
        {"step": step, "batch_digest": f"{step}", "loss": 1 / step, "grad_norm": 1.0, "lr": 0.1}
        for step in range(1, num_steps + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in steps_on_disk:
        (folder / f"checkpoints/step_{step:08d}").mkdir(parents=True)
        (folder / f"checkpoints/step_{step:08d}/weights").write_bytes(b"weights")
    return folder


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "c", write_run(tmp_path / "run"), undisturbed=write_run(tmp_path / "other"), random=Random(0))


def test_an_honest_run_keeps_the_laws(run):
    run.check(["resuming run from step 6"], begin=6)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')  # torn by the kill
    run.check(["killed before it said anything"], begin=6)


def test_a_wrong_start_is_seen(run):
    with pytest.raises(BrokenLawError, match="went on from step 3, the newest whole checkpoint is that of 6"):
        run.check(["resuming run from step 3"], begin=6)
    with pytest.raises(BrokenLawError, match="started afresh, though there was a checkpoint of step 6"):
        run.check(["starting run\nplan"], begin=6)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"batch_digest": "4"', '"batch_digest": "5"', "step 4: batch_digest is 5, undisturbed it is 4"),
        ('"loss": 0.5', '"loss": 0.50001', "step 2: loss is 0.50001"),
        ('{"step": 2', '{"step": 3', "steps are missing or doubled"),
    ],
)
def test_wrong_rows_are_seen(run, old, new, message):
    path = run.path / "metrics.jsonl"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(BrokenLawError, match=message):
        run.check([""], begin=3)


def test_a_step_with_substitutes_may_only_be_the_last_and_in_no_checkpoint(run):
    path = run.path / "metrics.jsonl"
    honest = path.read_text()
    row = '{"step": 7, "batch_digest": "x", "loss": 9.0, "grad_norm": 9.0, "lr": 0.1, "num_bad_samples": 1}\n'
    run.expected = [*run.expected, {**run.expected[-1], "step": 7}]
    path.write_text(honest + row)
    run.check([""], begin=6)
    path.write_text(honest + row.replace(', "num_bad_samples": 1', ""))
    with pytest.raises(BrokenLawError, match="step 7: batch_digest is x"):
        run.check([""], begin=6)
    path.write_text(honest + row)
    (run.path / "checkpoints/step_00000007").mkdir()
    with pytest.raises(BrokenLawError, match="step 7: batch_digest is x"):
        run.check([""], begin=6)


def test_lost_records_and_piles_are_seen(run):
    with pytest.raises(BrokenLawError, match="6 steps are on record, and there was a checkpoint of step 9"):
        run.check([""], begin=9)
    shutil.rmtree(run.path / "checkpoints")
    shutil.rmtree(run.path)
    write_run(run.path, steps_on_disk=range(1, 6))
    with pytest.raises(BrokenLawError, match="checkpoints pile up"):
        run.check([""], begin=6)


def test_a_damaged_checkpoint_does_not_count_until_it_is_saved_again(run):
    newest = run.list_good()[-1]
    run.damaged.add(identify(newest))
    hurt_checkpoint(newest, Random(1))
    assert run.find_newest() == 3
    newest.rename(run.path / "aside")
    newest.mkdir()
    assert run.find_newest() == 6
    assert len(list_whole(run.path)) == 2


def make_attempt(moment, **changes):
    values = {"victims": "both", "resumed_step": 3, "last_step": 5, "lost_steps": 2, "seconds_to_first_step": 4.0}
    return Attempt(moment=moment, **{**values, **changes})


def test_the_record_tells_of_a_run_that_is_cut_short(tmp_path):
    output = tmp_path / "figures.json"
    record = Record(seed=1, has_disk=False, undisturbed_seconds=9.0, output=output)
    record.add(make_attempt("step"))
    record.add(make_attempt("step", lost_steps=1, victims="0", seconds_to_first_step=8.0))
    hurt = Damage(name="disk full", detail="")
    record.add(make_attempt("end", seconds_to_first_step=None), damage=hurt, said="the first")
    record.add(damage=hurt, said="the second")
    figures = json.loads(output.read_text())
    assert figures["by_moment"] == {"step": {"kills": 2, "mean_lost_steps": 1.5, "most_lost_steps": 2}}
    assert (figures["kills"], figures["attempts"], figures["trained_steps"]) == (2, 3, 6)
    assert figures["by_victims"] == {"both": 1, "0": 1}
    assert figures["seconds_to_first_step"] == 6.0
    assert (figures["damage"], figures["said"]) == ({"disk full": 2}, {"disk full": "the first"})
    assert not figures["is_complete"]

    record.end({"steps": [9, 9], "loss_difference": 0.0, "are_weights_equal": True, "num_elements": 2_000_000})
    assert json.loads(output.read_text())["is_complete"]
    lines = format_figures(record.summarise()).splitlines()
    assert lines[1].split() == ["step", "2", "1.5", "2"]
    assert "   2 x disk full: the first" in lines
    assert "not tried, no right to mount: disk full, disk read-only" in lines

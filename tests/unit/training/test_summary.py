"""What summary.json says of a run that has ended, and the table made of it, of older ones too."""

import json

import pytest

from hornet.errors import UserError
from hornet.runs.directory import RunConfig, RunDirectory, read_summary
from hornet.training import summary
from hornet.training.checkpoints.state import RunState
from hornet.training.summary import format_summary
from hornet.world import ALONE
from tests.unit.pages.run.making import EVENTS, START, make_metrics, write_rows
from tests.unit.training.fakes import CountingEngine, make_components

RAW = {"step": 12, "weights": "raw", "top1": 60.0, "top5": 90.0, "loss": 1.0, "num_images": 24, "num_bad_images": 0}
EMA = {**RAW, "weights": "ema", "top1": 62.0, "loss": 0.9}


@pytest.fixture
def run(tmp_path):
    """Three attempts, the first killed and the second stopped; the third is about to end."""
    run = RunDirectory(RunConfig(name="r", root=tmp_path), world=ALONE)
    run.path.mkdir()
    write_rows(run.path / "metrics.jsonl", make_metrics(12))
    write_rows(run.path / "events.jsonl", EVENTS[:-1])
    write_rows(run.path / "evaluations.jsonl", [{**RAW, "step": 6, "top1": 99.0}, RAW, EMA])
    return run


def finish(run, monkeypatch, *, about=None, state=None, now=START + 308):
    monkeypatch.setattr("hornet.training.summary.time.time", lambda: now)
    components = make_components(CountingEngine(), about=about or {}, flops_per_image=1e9)  # 4 images a step
    summary.finish(run, components, state or RunState(step=12), seconds=17.5, world=ALONE)
    return json.loads((run.path / "summary.json").read_text())


def test_it_has_the_seconds_of_all_attempts_and_of_the_last(run, monkeypatch, capsys):
    written = finish(run, monkeypatch)
    assert written["seconds"] == 17 + 16 + 18, "the killed one to its last step, none of the time between attempts"
    assert written["num_attempts"] == 3
    assert written["seconds_in_last_attempt"] == 17.5
    assert "51 s in 3 attempts, 18 s in the last" in capsys.readouterr().out


def test_a_run_without_its_diary_has_the_seconds_of_this_attempt(run, monkeypatch):
    (run.path / "events.jsonl").unlink()
    (run.path / "metrics.jsonl").write_text(json.dumps({**make_metrics(1)[0], "step": 12}) + "\n")
    written = finish(run, monkeypatch)
    assert (written["seconds"], written["num_attempts"]) == (17.5, 1)


def test_it_has_what_the_training_cost_and_what_was_dropped(run, monkeypatch):
    written = finish(run, monkeypatch, state=RunState(step=12, num_skipped_steps=2))
    assert written["images_seen"] == 48
    assert written["training_flops"] == 48e9
    assert written["num_dropped_images"] == 8


def test_it_has_the_better_of_the_last_weights(run, monkeypatch):
    written = finish(run, monkeypatch)
    assert written["evaluations"] == [RAW, EMA]
    assert written["best_evaluation"] == EMA
    (run.path / "evaluations.jsonl").unlink()
    assert finish(run, monkeypatch)["best_evaluation"] is None


def test_it_has_what_the_stage_says_of_the_run(run, monkeypatch):
    about = {"digest": "ab", "seed": 3, "image_size": 64, "num_samples": 100}
    finish(run, monkeypatch, about=about)
    assert about.items() <= read_summary(run.path).items()


def test_summaries_of_earlier_releases_are_shown(run, monkeypatch):
    new = ("digest", "seconds", "num_attempts", "best_evaluation", "training_flops", "num_dropped_images")
    old = {key: value for key, value in finish(run, monkeypatch).items() if key not in new}
    assert "18 s in the last attempt" in format_summary(old, folder="r")
    del old["mfu"]
    old["seconds_in_last_life"] = old.pop("seconds_in_last_attempt")
    assert "18 s in the last attempt" in format_summary(old, folder="r")


def test_a_summary_that_is_damaged_is_named(tmp_path):
    (tmp_path / "summary.json").write_text('{"steps": 1')
    with pytest.raises(UserError, match=r"summary\.json: is not JSON \(.*\); move the file away to go on"):
        read_summary(tmp_path)

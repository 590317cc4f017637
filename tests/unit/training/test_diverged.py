"""A run whose last evaluation found a loss that is not finite: it ends as finished, and says so at every start."""

import json
import math

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hornet.pages.run.page import write_report
from hornet.runs.directory import RunConfig, RunDirectory
from hornet.training import summary
from hornet.training.checkpoints.state import RunState
from hornet.training.evaluate import find_best, format_evaluation
from hornet.training.metrics import MetricsRecorder
from hornet.world import ALONE
from tests.unit.training.fakes import CountingEngine, make_components

BAD = {"top1": 25.0, "top5": 100.0, "loss": math.nan, "num_images": 24, "num_bad_images": 0}
NORMS = {"stem": {"grad_norm": 1.0, "weight_norm": math.inf, "layer_scale": None}}


@pytest.mark.parametrize("loss", [math.nan, math.inf, None])
def test_an_evaluation_says_that_its_loss_is_not_finite(loss):
    line = format_evaluation({"step": 12, "weights": "raw", **BAD, "loss": loss})
    assert line == "top-1 25.00 %, top-5 100.00 %, loss not finite on 24 images"


@pytest.fixture
def run(tmp_path, alone):
    """A run that has logged a step and evaluated it twice, with weights that hold a NaN and an infinity."""
    run = RunDirectory(RunConfig(name="r", root=tmp_path), world=ALONE)
    run.tensorboard.mkdir(parents=True)
    components = make_components(CountingEngine())
    recorder = MetricsRecorder(run, components, world=ALONE, first_step=0, device=torch.device("cpu"))
    row = {"step": 10, "loss": math.nan, "images_per_second": 2.0, "data_seconds": 0.1, "step_seconds": 1.0}
    run.append("metrics", row)
    run.append("norms", {"step": 10, "parts": NORMS})
    recorder.show_evaluation({"step": 5, "weights": "raw", **BAD, "top1": 20.0, "loss": 1.5})
    recorder.show_evaluation({"step": 10, "weights": "raw", **BAD})
    recorder.close()
    return run


def test_it_ends_as_finished_and_is_found_finished_again(run, capsys, monkeypatch):
    summary.finish(run, make_components(CountingEngine()), RunState(step=10), seconds=1.0, world=ALONE)
    assert "loss not finite on 24 images" in capsys.readouterr().out
    assert json.loads((run.path / "status.json").read_text())["state"] == "finished"
    assert json.loads((run.path / "summary.json").read_text())["evaluations"][0]["loss"] is None
    monkeypatch.setattr(summary, "refuse_changes", lambda config, folder: None)
    monkeypatch.setattr(summary, "refuse_new_windows", lambda run, guard: None)
    assert summary.report_finished(run, make_components(CountingEngine()), world=ALONE)
    assert "loss not finite on 24 images" in capsys.readouterr().out


def test_files_curves_and_page_bear_it(run):
    rows = [json.loads(line) for line in (run.path / "evaluations.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in rows] == [1.5, None]
    (norms,) = (json.loads(line) for line in (run.path / "norms.jsonl").read_text().splitlines())
    assert norms["parts"] == {"stem": {**NORMS["stem"], "weight_norm": None}}
    board = EventAccumulator(str(run.tensorboard))
    board.Reload()
    losses = [event.value for event in board.Scalars("evaluation_raw/loss")]
    assert losses[0] == 1.5
    assert math.isnan(losses[1])
    (run.path / "status.json").write_text('{"state": "finished", "step": 10}')
    write_report(run.path, run.path / "page.html", now=0.0)
    page = (run.path / "page.html").read_text()
    assert "20.00 %" in page, "best top-1 of a loss that is a number"
    assert "best top-1, raw, step 5" in page


def test_the_best_checkpoint_is_one_whose_loss_is_finite():
    rows = [
        {"step": step, "top1": top1, "loss": loss} for step, top1, loss in [(1, 20, 3.0), (2, 25, None), (3, 9, 1.0)]
    ]
    assert find_best(rows)["step"] == 1
    assert find_best(rows[1:2])["step"] == 2
    assert find_best([]) is None

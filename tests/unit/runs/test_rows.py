"""Lines that are added to a run's files."""

import pytest

from hornet.runs.directory import RunConfig, RunDirectory
from hornet.world import ALONE

EVENT = {"event": "running", "step": 1}


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(RunConfig(name="r", root=tmp_path), world=ALONE)
    run.path.mkdir()
    return run


@pytest.mark.parametrize("torn", ["", '{"event": "sav', '{"event": "save", "step": 1}'])
@pytest.mark.parametrize("whole", ["", '{"event": "starting", "step": 0}\n'])
def test_a_line_that_a_full_disk_cut_short_does_not_spoil_the_next(run, whole, torn):
    """Later attempts add to it, and the last one reads it to say how long the run took."""
    (run.path / "events.jsonl").write_text(whole + torn)
    for _ in range(2):
        run.append("events", EVENT)
    assert run.read("events") == [{"event": "starting", "step": 0}] * bool(whole) + [EVENT] * 2


def test_what_is_added_is_whole_lines(run):
    run.append("metrics", {"loss": float("nan"), "step": 1})
    run.append("metrics", {"loss": 2.0, "step": 2})
    assert (run.path / "metrics.jsonl").read_text() == '{"loss": null, "step": 1}\n{"loss": 2.0, "step": 2}\n'

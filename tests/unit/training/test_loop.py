import itertools
import json

import pytest
import torch

from hornet.errors import UserError
from hornet.quantities import format_seconds
from hornet.runs.directory import RunConfig, RunDirectory
from hornet.training.checkpoints.state import RunState
from hornet.training.config import CadenceConfig
from hornet.training.loop import Request, train
from hornet.training.metrics import MetricsRecorder
from hornet.training.schedule import Schedule
from hornet.world import ALONE
from tests.unit.training.fakes import (
    CountingEngine,
    TrustingGuard,
    exchange,
    make_bad_sample,
    make_batch,
    make_components,
)

SCHEDULE = Schedule(num_steps=10, num_warmup_steps=0, peak_lr=1.0, min_lr=0.0)


class ListRecorder:
    def __init__(self):
        self.rows = []

    def record(self, record, state, *, is_logged):
        self.rows.append((record.step, len(record.batches), is_logged))


def group(batches, size=2):
    """The micro batches of each step."""
    while of_step := list(itertools.islice(batches, size)):
        yield of_step


def run(*, state, cadence=None, engine=None, recorder=None, batches=None, requests=(), outcomes=None):
    calls = []
    is_finished = train(
        engine=engine or CountingEngine(),
        batches=group(batches or itertools.repeat(make_batch())),
        exchange=exchange,
        state=state,
        schedule=SCHEDULE,
        cadence=cadence or CadenceConfig(log_every_steps=4, save_every_steps=3, evaluate_every_steps=5),
        guard=TrustingGuard(),
        recorder=recorder or ListRecorder(),
        check_requests=lambda state: dict(requests).get(state.step, Request.GO_ON),
        save=lambda state: calls.append(("save", state.step)),
        evaluate=lambda state: calls.append(("evaluate", state.step)),
        render=lambda state, batches: calls.append(("render", state.step)),
    )
    if outcomes is not None:
        outcomes.append(is_finished)
    return calls


def test_a_wish_to_save_or_stop_is_met_at_the_step_boundary():
    recorder, outcomes = ListRecorder(), []
    calls = run(state=RunState(), recorder=recorder, requests={4: Request.SAVE, 7: Request.STOP}, outcomes=outcomes)
    assert [step for name, step in calls if name == "save"] == [3, 4, 6, 7]
    assert outcomes == [False]
    assert recorder.rows[-1][0] == 7
    run(state=RunState(), requests={10: Request.STOP}, outcomes=outcomes)
    assert outcomes == [False, True], "who asks to stop after the last step gets a finished run"


def test_everything_happens_at_its_cadence():
    recorder = ListRecorder()
    calls = run(state=RunState(), recorder=recorder)
    assert [step for name, step in calls if name == "save"] == [3, 6, 9, 10]
    assert [step for name, step in calls if name == "evaluate"] == [5, 10]
    assert [step for name, step in calls if name == "render"] == [1, 10]
    assert [step for step, _, is_logged in recorder.rows if is_logged] == [3, 4, 6, 8, 9, 10]
    assert all(num_batches == 2 for _, num_batches, _ in recorder.rows)


def test_it_goes_on_from_the_state_and_follows_the_schedule():
    engine = CountingEngine()
    run(state=RunState(step=7), engine=engine)
    assert engine.lrs == [SCHEDULE.lr_at(step) for step in (7, 8, 9)]


def test_a_finished_state_does_nothing():
    assert run(state=RunState(step=10)) == []


def test_skipped_steps_are_counted():
    state = RunState()
    run(state=state, engine=CountingEngine(finite=lambda step: step not in (2, 5)))
    assert (state.step, state.num_skipped_steps) == (10, 2)


@pytest.fixture
def directory(tmp_path, alone):
    directory = RunDirectory(RunConfig(name="r", root=tmp_path), world=ALONE)
    directory.tensorboard.mkdir(parents=True)
    return directory


def make_recorder(directory, engine=None, **changes):
    components = make_components(engine or CountingEngine(), **changes)
    return MetricsRecorder(directory, components, world=ALONE, first_step=0, device=torch.device("cpu"))


def test_metrics_rows(directory):
    batches = itertools.cycle([make_batch(keys=(-1, 5)), make_batch(keys=(2**62, 2**62))])
    recorder = make_recorder(directory)
    run(state=RunState(), recorder=recorder, batches=batches, cadence=CadenceConfig(log_every_steps=5))
    recorder.close()
    rows = [json.loads(line) for line in (directory.path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [5, 10]
    assert rows[0]["images_seen"] == 20
    assert rows[0]["epoch"] == 1.0
    assert rows[0]["loss"] == pytest.approx(0.2)
    assert rows[0]["batch_digest"] == f"{(2**64 - 1 + 5 + 2 * 2**62) % 2**64:016x}"
    assert json.loads((directory.path / "status.json").read_text())["state"] == "running"


def test_bad_samples_are_listed_counted_and_end_the_run_above_the_rate(directory):
    # 5 steps x 4 images an epoch, at most 10 %: two may be bad, the third ends the run
    batches = [make_batch(bad=[make_bad_sample(f"s/{i}")] if i in (0, 3, 4) else []) for i in range(20)]
    recorder = make_recorder(directory)
    state = RunState()
    with pytest.raises(UserError, match=r"3 bad samples in 12 images exceed data.max_bad_sample_rate=0.1 of 20"):
        run(state=state, recorder=recorder, batches=iter(batches), cadence=CadenceConfig(log_every_steps=1))
    recorder.close()
    listed = [
        json.loads(line)["key"] for line in (directory.path / "bad_samples/rank_00000.jsonl").read_text().splitlines()
    ]
    assert listed == ["s/0", "s/3", "s/4"]
    assert state.num_bad_samples == 3


def test_what_lies_beyond_the_checkpoint_is_forgotten(directory):
    for step in (1, 2, 3):
        directory.append("metrics", {"step": step})
    with (directory.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "cut')
    directory.forget_after(2)
    assert [row["step"] for row in directory.read("metrics")] == [1, 2]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (3.24, "3.2 s"), (12.4, "12 s"), (200, "3 min 20 s"), (18720, "5 h 12 min"), (183600, "2 d 3 h")],
)
def test_durations_for_people(seconds, text):
    assert format_seconds(seconds) == text


def test_cadence_refuses_zero():
    with pytest.raises(ValueError, match="save_every_steps: must be at least 1, not 0"):
        CadenceConfig(save_every_steps=0)


def test_a_full_disk_does_not_hide_the_error_that_ended_the_run(directory, monkeypatch):
    def fail(_path, _value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hornet.runs.directory.write_json", fail)
    with pytest.raises(UserError, match="the first error"), directory.failures_marked():
        raise UserError("the first error")
    with pytest.raises(UserError, match=r"status\.json: cannot be written: No space left on device"):
        directory.write_status("running", step=1)

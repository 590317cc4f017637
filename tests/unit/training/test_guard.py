import copy
import dataclasses
import itertools
import json
import math

import pytest
import torch

from hornet.runs.directory import RunConfig, RunDirectory
from hornet.training.checkpoints.state import RunState
from hornet.training.config import CadenceConfig, GuardConfig
from hornet.training.guard import DroppedInARowError, NumericalGuard, find_spike
from hornet.training.loop import Request, StepResult, train
from hornet.training.schedule import Schedule
from hornet.world import ALONE
from tests.unit.training.fakes import exchange, make_batch

CONFIG = GuardConfig(window_steps=8, max_dropped_in_a_row=3)
NUM_STEPS = 20


class ScriptedEngine:
    """Reports the given losses and norms by step, and 2 + a little for the others; asks the guard as engines do."""

    def __init__(self, losses=(), norms=()):
        self.losses, self.norms = dict(losses), dict(norms)
        self.applied = []

    def run_step(self, batches, *, step, lr, accept):
        loss = torch.tensor(self.losses.get(step, 2 + 0.1 * math.sin(step)))
        norm = self.norms.get(step, 5 + 0.3 * math.cos(step))
        was_applied = accept(loss, norm) and math.isfinite(norm)
        self.applied += [step] if was_applied else []
        return StepResult(loss=loss, grad_norm=norm, was_applied=was_applied)


class NoRecorder:
    def record(self, record, state, *, is_logged):
        pass


@pytest.fixture
def directory(tmp_path, alone):
    directory = RunDirectory(RunConfig(name="r", root=tmp_path), world=ALONE)
    directory.path.mkdir()
    return directory


def run(directory, engine, *, state=None, config=CONFIG, stop_at=None):
    state = state or RunState()
    train(
        engine=engine,
        batches=([make_batch(keys=(step, 100 + step))] for step in itertools.count(state.step)),
        exchange=exchange,
        state=state,
        schedule=Schedule(num_steps=NUM_STEPS, num_warmup_steps=0, peak_lr=1.0, min_lr=0.0),
        cadence=CadenceConfig(),
        guard=NumericalGuard(config, run=directory, state=state, world=ALONE),
        recorder=NoRecorder(),
        check_requests=lambda state: Request.STOP if state.step == stop_at else Request.GO_ON,
        save=lambda state: None,
        evaluate=lambda state: None,
        render=lambda state, batches: None,
    )
    return state


@pytest.mark.parametrize(
    ("losses", "norms", "reason"),
    [
        ({9: math.nan}, {}, "loss not finite"),
        ({9: math.inf}, {}, "loss not finite"),
        ({}, {9: math.inf}, "gradient not finite"),
        ({}, {9: math.nan}, "gradient not finite"),
        ({9: 4.0}, {}, "spike of the loss"),
        ({}, {9: 50.0}, "spike of the gradient norm"),
    ],
)
def test_a_bad_step_is_dropped_and_recorded_with_its_samples(directory, capsys, losses, norms, reason):
    engine = ScriptedEngine(losses, norms)
    state = run(directory, engine)
    assert engine.applied == [step for step in range(NUM_STEPS) if step != 9]
    assert (state.num_skipped_steps, state.num_dropped_in_a_row) == (1, 0)
    (row,) = directory.read("dropped_steps")
    assert (row["step"], row["data_step"], row["reason"]) == (10, 9, reason)
    assert row["keys"] == ["s/9", "s/109"]
    assert f"step 10: dropped: {reason}" in capsys.readouterr().out


def test_a_spikes_record_says_what_was_usual(directory):
    run(directory, ScriptedEngine({9: 4.0}))
    (row,) = directory.read("dropped_steps")
    last = [2 + 0.1 * math.sin(step) for step in range(1, 9)]
    assert row["value"] == row["loss"] == 4.0
    assert row["mean"] == pytest.approx(sum(last) / 8)
    assert row["sigma"] == pytest.approx(torch.tensor(last).std(correction=0).item(), rel=1e-4)
    assert row["grad_norm"] == pytest.approx(5 + 0.3 * math.cos(9))


def test_a_drop_of_the_loss_is_no_spike(directory):
    assert run(directory, ScriptedEngine({9: 0.1}, {9: 0.0})).num_skipped_steps == 0


def test_nothing_is_a_spike_before_half_the_window(directory):
    assert run(directory, ScriptedEngine({3: 1000.0}), config=GuardConfig(window_steps=8)).num_skipped_steps == 0
    assert run(directory, ScriptedEngine({4: 1000.0}), config=GuardConfig(window_steps=8)).num_skipped_steps == 1


def test_without_sigmas_only_what_is_not_finite_is_dropped(directory):
    engine = ScriptedEngine({9: 1000.0, 12: math.nan})
    run(directory, engine, config=GuardConfig(spike_sigmas=None, window_steps=8))
    assert set(range(NUM_STEPS)) - set(engine.applied) == {12}


def test_values_that_hardly_differ_make_no_spikes():
    recent = [2.0, 2.0 + 1e-9] * 4
    assert find_spike("spike of the loss", 2.1, recent, config=CONFIG) is None
    assert find_spike("spike of the loss", 2.0 * 1.07, recent, config=CONFIG) is not None, "six times 1 % is 6 %"


def test_too_many_in_a_row_end_it_and_single_ones_do_not(directory):
    assert run(directory, ScriptedEngine({5: math.nan, 6: math.nan, 8: math.nan, 9: math.nan})).num_skipped_steps == 4
    with pytest.raises(DroppedInARowError, match="step 8: 3 steps in a row were dropped") as caught:
        run(directory, ScriptedEngine({5: math.nan, 7: math.nan}, {6: math.inf}))
    assert caught.value.first_step == 5


@pytest.mark.parametrize("stop_at", [3, 10, 11, 14])
def test_a_resumed_run_decides_as_an_undisturbed_one(directory, stop_at):
    """The state goes through JSON, as in a checkpoint's manifest, before, in and after a row of dropped steps."""
    script = {4: 2.4, 9: 4.0, 10: 4.0, 13: 2.65, 16: 2.8}
    undisturbed = ScriptedEngine(script)
    expected = run(directory, undisturbed)
    assert len(undisturbed.applied) < NUM_STEPS - 1, "something is dropped"
    first, second = ScriptedEngine(script), ScriptedEngine(script)
    state = run(directory, first, stop_at=stop_at)
    state = RunState(**json.loads(json.dumps(copy.deepcopy(state.__dict__))))
    assert run(directory, second, state=state) == expected
    assert first.applied + second.applied == undisturbed.applied


def test_a_norm_that_stays_high_is_the_weights_own(directory):
    """Dropping leaves the weights where they are, so the next batch finds the same norm: the run must not end by it."""
    config = GuardConfig(window_steps=8, max_norm_spikes_in_a_row=3, max_dropped_in_a_row=5)
    engine = ScriptedEngine(norms=dict.fromkeys(range(9, NUM_STEPS), 50.0))
    state = run(directory, engine, config=config)
    assert sorted(set(range(NUM_STEPS)) - set(engine.applied)) == [9, 10, 11]
    assert state.recent_norms == [50.0] * 8, "the guard has learned what is usual now"
    with pytest.raises(DroppedInARowError, match="step 14: 5 steps in a row were dropped"):
        run(directory, engine, config=dataclasses.replace(config, max_norm_spikes_in_a_row=None))


@pytest.mark.parametrize(
    ("losses", "norms"),
    [
        ({}, dict.fromkeys(range(9, 14), math.inf)),
        (dict.fromkeys(range(9, 14), math.nan), {}),
        (dict.fromkeys(range(9, 14), 4.0), {}),
        (dict.fromkeys(range(9, 14), 4.0), dict.fromkeys(range(9, 14), 50.0)),
    ],
)
def test_however_long_the_row_a_loss_that_is_far_off_and_what_is_not_finite_stay_out(directory, losses, norms):
    config = GuardConfig(window_steps=8, max_norm_spikes_in_a_row=2, max_dropped_in_a_row=5)
    engine = ScriptedEngine(losses, norms)
    with pytest.raises(DroppedInARowError, match="step 14: 5 steps in a row were dropped"):
        run(directory, engine, config=config)
    assert engine.applied == list(range(9))


def test_a_row_of_dropped_steps_counts_over_a_resume(directory):
    engine = ScriptedEngine({9: math.nan, 10: math.nan, 11: math.nan})
    state = run(directory, engine, stop_at=11)
    with pytest.raises(DroppedInARowError, match="step 12: 3 steps"):
        run(directory, engine, state=state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spike_sigmas": 0.0}, "spike_sigmas: must be above 0, or null, not 0.0"),
        ({"window_steps": 1}, "window_steps: must be at least 2, not 1"),
        (
            {"max_norm_spikes_in_a_row": 0},
            "max_norm_spikes_in_a_row: must be at least 1, or null, not 0",
        ),
        ({"max_dropped_in_a_row": 0}, "max_dropped_in_a_row: must be at least 1, not 0"),
        ({"max_rollbacks": -1}, "max_rollbacks: must be at least 0, not -1"),
        ({"rollback_steps": -1}, "rollback_steps: must be at least 0, not -1"),
        ({"num_batches_after_spike": -1}, "num_batches_after_spike: must be at least 0, not -1"),
        ({"skip_batches": ((5, 5),)}, r"skip_batches: a pair is \[first, stop\) with .* not \[5, 5\]"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        GuardConfig(**change)

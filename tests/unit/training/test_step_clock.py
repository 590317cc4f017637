import time

import pytest
import torch

from hornet.training.step_clock import StepClock


def test_each_phase_gets_its_own_time_once():
    clock = StepClock(torch.device("cpu"))
    for phase, seconds in (("data", 0.01), ("forward", 0.02), ("backward", 0.03), ("forward", 0.02)):
        with clock.measure(phase):
            time.sleep(seconds)
    taken = clock.take()
    assert list(taken) == ["data", "forward", "backward", "optimizer"]
    assert taken["data"] >= 0.01
    assert taken["forward"] >= 0.04
    assert taken["backward"] >= 0.03
    assert taken["optimizer"] == 0
    assert sum(taken.values()) < 1
    assert not any(clock.take().values())


def test_on_a_gpu_events_time_what_the_device_does_and_the_host_what_it_fetches(monkeypatch):
    class FakeEvent:
        times = iter([100.0, 130.0, 200.0, 250.0])  # milliseconds

        def __init__(self, *, enable_timing):
            assert enable_timing

        def record(self):
            self.time = next(self.times)

        def synchronize(self):
            pass

        def elapsed_time(self, end):
            return end.time - self.time

    monkeypatch.setattr("torch.cuda.Event", FakeEvent)
    clock = StepClock(torch.device("cuda"))
    with clock.measure("data"):
        time.sleep(0.01)
    for phase in ("forward", "backward"):
        with clock.measure(phase):
            pass
    taken = clock.take()
    assert taken["data"] >= 0.01
    assert taken["forward"] == pytest.approx(0.03)
    assert taken["backward"] == pytest.approx(0.05)
    assert not any(clock.take().values())


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_time_for_data_within_another_phase_is_not_counted_twice(monkeypatch, device):
    """The next batches are fetched while the optimizer's phase is under way."""

    class FakeEvent:
        def __init__(self, *, enable_timing):
            pass

        def record(self):
            self.time = now[0]

        def synchronize(self):
            pass

        def elapsed_time(self, end):
            return (end.time - self.time) * 1000

    now = [0.0]
    monkeypatch.setattr("torch.cuda.Event", FakeEvent)
    monkeypatch.setattr("hornet.training.step_clock.time.perf_counter", lambda: now[0])
    clock = StepClock(torch.device(device))
    with clock.measure("optimizer"):
        now[0] += 2
        with clock.measure("data"):
            now[0] += 5
        now[0] += 1
    taken = clock.take()
    assert (taken["data"], taken["optimizer"]) == (5, pytest.approx(3))

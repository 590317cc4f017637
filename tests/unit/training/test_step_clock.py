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

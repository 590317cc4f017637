import platform
import time

import pytest
import torch
from torch import nn

from hornet.training.stragglers import BusyClock, Stragglers, find_slowest


class Sleeper(nn.Module):
    def forward(self, seconds):
        time.sleep(seconds)


@pytest.mark.parametrize(
    ("busy", "rank", "over_median"),
    [([1.0], 0, 1.0), ([1.0, 3.0], 1, 1.5), ([1.0, 1.0, 1.5, 1.0], 2, 1.5), ([2.0, 2.0], 0, 1.0), ([0.0, 0.0], 0, 1.0)],
)
def test_the_slowest_is_measured_by_the_median(busy, rank, over_median):
    slowest = find_slowest(busy)
    assert (slowest.rank, slowest.over_median) == (rank, over_median)


def test_the_clock_adds_up_training_forwards_only():
    network = Sleeper()
    clock = BusyClock(network, device=torch.device("cpu"))
    clock.data_seconds += 5
    network(0.02)
    network(0.02)
    network.eval()
    network(0.5)
    data, forward = clock.take()
    assert data == 5
    assert 0.04 <= forward < 0.4
    assert clock.take() == (0, 0)


def test_a_rank_that_is_slow_three_times_running_is_named(alone, monkeypatch):
    clock = BusyClock(nn.Identity(), device=torch.device("cpu"))
    stragglers = Stragglers(clock)
    stragglers._hosts = ["a", "b", "c"]
    slow, chance = [(1.0, 2.0), (1.0, 2.0), (4.0, 2.0)], [(1.0, 2.0), (5.0, 2.0), (1.0, 2.0)]
    reports = []
    for times in (slow, slow, chance, slow, slow, slow, slow):
        monkeypatch.setattr("hornet.training.stragglers.gather_from_all", lambda _mine, times=times: times)
        reports.append(stragglers.report(num_steps=1))
    assert [report.warning is not None for report in reports] == [False] * 5 + [True, False]
    assert (
        "rank 2 on c took 2.00 x the median rank's time for 3 reports running: 4.000 s for data" in reports[5].warning
    )
    assert reports[5].fields == {"busy_seconds": 3.0, "slowest_rank": 2, "slowest_over_median": 2.0}


def test_one_rank_is_never_its_own_straggler(alone):
    clock = BusyClock(nn.Identity(), device=torch.device("cpu"))
    stragglers = Stragglers(clock)
    assert stragglers._hosts == [platform.node()]
    for _ in range(4):
        clock.data_seconds += 3
        report = stragglers.report(num_steps=2)
        assert report.warning is None
        assert report.fields["busy_seconds"] == 1.5


def test_on_a_gpu_the_clock_reads_events_and_waits_for_none(monkeypatch):
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
    network = nn.Identity()
    clock = BusyClock(network, device=torch.device("cuda"))
    network(0)
    network(0)
    assert clock.take() == (0, pytest.approx(0.08))
    assert clock.take() == (0, 0)

import platform

import pytest
import torch

from hornet.training.step_clock import StepClock
from hornet.training.stragglers import Stragglers, find_slowest


@pytest.mark.parametrize(
    ("busy", "rank", "over_median"),
    [
        ([1.0], 0, 1.0),
        ([3.0, 5.0], 1, 5 / 3),  # not 1.25, as against the median of both
        ([1.0, 1.0, 1.5, 1.0], 2, 1.5),
        ([1.0, 2.0, 9.0, 3.0], 2, 4.5),
        ([2.0, 2.0], 0, 1.0),
        ([0.0, 0.0], 0, 1.0),
    ],
)
def test_the_slowest_is_measured_by_the_median_of_the_others(busy, rank, over_median):
    slowest = find_slowest(busy)
    assert (slowest.rank, slowest.over_median) == (rank, over_median)


def make_times(*data_seconds):
    return [{"step": 9.0, "data": data, "forward": 2.0, "backward": 4.0, "optimizer": 0.5} for data in data_seconds]


def test_a_rank_that_is_slow_three_times_running_is_named(alone, monkeypatch):
    clock = StepClock(torch.device("cpu"))
    stragglers = Stragglers(clock)
    stragglers._hosts = ["a", "b", "c"]
    slow, chance = make_times(1.0, 1.0, 4.0), make_times(1.0, 5.0, 1.0)
    reports = []
    for times in (slow, slow, chance, slow, slow, slow, slow):
        monkeypatch.setattr("hornet.training.stragglers.gather_from_all", lambda _mine, times=times: times)
        reports.append(stragglers.report(num_steps=1, step_seconds=9.0))
    assert [report.warning is not None for report in reports] == [False] * 5 + [True, False]
    assert (
        "rank 2 on c took 2.00 x the other ranks' median time for 3 reports running: 4.000 s for data"
        in reports[5].warning
    )
    assert reports[5].fields == {
        "step_seconds": 9.0,
        "data_seconds": 2.0,
        "forward_seconds": 2.0,
        "backward_seconds": 4.0,
        "optimizer_seconds": 0.5,
        "busy_seconds": 3.0,
        "slowest_rank": 2,
        "slowest_over_median": 2.0,
    }


def test_one_rank_is_never_its_own_straggler(alone):
    clock = StepClock(torch.device("cpu"))
    stragglers = Stragglers(clock)
    assert stragglers._hosts == [platform.node()]
    for _ in range(4):
        clock._seconds["data"] += 3
        report = stragglers.report(num_steps=2, step_seconds=4.0)
        assert report.warning is None
        assert report.fields["busy_seconds"] == report.fields["data_seconds"] == 1.5
        assert report.fields["step_seconds"] == 2.0

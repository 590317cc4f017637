"""Intervals against scipy, pairing by hand."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.clipart.pairing import T_975, average, blend, choose_equal_steps, compare
from hornet.errors import UserError


@pytest.mark.parametrize("count", range(2, len(T_975) + 2))
def test_the_interval_is_scipys(count):
    values = np.random.default_rng(count).normal(3, 2, count)
    ours = average(values.tolist())
    low, high = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
    assert ours.mean == pytest.approx(values.mean())
    assert ours.mean - ours.half_width == pytest.approx(low, abs=1e-3)
    assert ours.mean + ours.half_width == pytest.approx(high, abs=1e-3)


def test_a_comparison_is_a_paired_t_test():
    ours, others = {0: 50.0, 1: 53.0, 2: 49.5}, {2: 48.0, 0: 47.0, 1: 51.0}
    found = compare(ours, others)
    seeds = sorted(ours)
    test = stats.ttest_rel([ours[seed] for seed in seeds], [others[seed] for seed in seeds])
    assert found.mean == pytest.approx((3 + 2 + 1.5) / 3)
    interval = test.confidence_interval(0.95)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(tuple(interval), abs=1e-3)


def test_only_pairs_count_and_one_has_no_interval():
    assert str(compare({0: 5.0, 1: 7.0}, {1: 4.0, 2: 9.0})) == "+3.00 (one seed, no interval)"
    assert compare({0: 5.0}, {1: 4.0}) is None
    assert blend({0: 5.0, 1: 7.0}, {1: 4.0, 2: 9.0}) == {1: 5.5}
    with pytest.raises(ValueError, match="no values"):
        average([])


def test_an_interval_reads_as_text():
    assert str(average([1.0, 2.0, 3.0])) == "+2.00 (-0.48 to +4.48)"


def test_equal_compute_is_the_nearest_number_of_steps():
    assert choose_equal_steps(stages=[(1500, 4), (400, 9)], flops=9) == 1067
    assert choose_equal_steps(stages=[(9, 4), (4, 9)], flops=9) == 8


def test_stages_too_short_to_compare_are_refused():
    with pytest.raises(UserError, match=r"2 steps from scratch are 105\.9 % of the FLOPs"):
        choose_equal_steps(stages=[(2, 4), (1, 9)], flops=9)

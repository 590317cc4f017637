"""Round numbers on the axes of charts."""

import pytest

from hornet.pages.axis import Axis


@pytest.mark.parametrize(
    ("low", "high", "is_log", "expected"),
    [
        (0.0, 10.0, False, [0, 5, 10]),
        (3.2, 3.8, False, [3.2, 3.4, 3.6, 3.8]),
        (0.8, 60.0, True, [1, 2, 5, 10, 20, 50]),
        (3.0, 4.0e6, True, [10, 100, 1000, 1e4, 1e5, 1e6]),
        (3.2, 3.8, True, [3.2, 3.3, 3.4, 3.5, 3.6, 3.7, 3.8]),
        (1.5, 4.0, True, [1.5, 2, 2.5, 3, 3.5, 4]),
    ],
)
def test_an_axis_has_round_numbers_however_narrow_it_is(low, high, is_log, expected):
    axis = Axis(low=low, high=high, start=0.0, stop=100.0, is_log=is_log)
    assert axis.ticks() == pytest.approx(expected)

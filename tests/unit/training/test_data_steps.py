from itertools import count, islice, pairwise

from hypothesis import given
from hypothesis import strategies as st

from hornet.training.data_steps import (
    count_data_steps,
    data_step_of,
    has_same_past,
    is_left_out,
    merge_windows,
    split_steps,
)

windows = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)).map(lambda w: [w[0], w[0] + w[1]]), max_size=5)
steps = st.integers(0, 60)


def list_naively(num_steps, windows):
    """The data steps of the first steps, one by one."""
    return list(islice((n for n in count() if not any(n in range(*window) for window in windows)), num_steps))


@given(windows, steps)
def test_a_step_trains_on_the_next_batch_outside_all_windows(windows, step):
    assert data_step_of(step, windows) == list_naively(step + 1, windows)[-1]


@given(windows, steps)
def test_the_way_through_the_data_is_counted_with_what_was_passed(windows, num_steps):
    assert count_data_steps(num_steps, windows) == max(list_naively(num_steps, windows), default=-1) + 1


@given(windows, steps, steps)
def test_pieces_are_whole_and_hold_every_step_once(windows, first_step, num_steps):
    pieces = list(split_steps(first_step, num_steps, windows))
    held = [data_step for first, length in pieces for data_step in range(first, first + length)]
    assert held == list_naively(first_step + num_steps, windows)[first_step:]
    assert all(a + length < b for (a, length), (b, _) in pairwise(pieces)), "apart, so few calls"


@given(windows, windows, steps)
def test_pasts_are_the_same_where_the_batches_were(one, other, num_steps):
    same = list_naively(num_steps, one) == list_naively(num_steps, other)
    assert has_same_past(num_steps, one, other) == same


@given(windows)
def test_merged_windows_leave_out_the_same(windows):
    merged = merge_windows(windows)
    assert all(a[1] < b[0] for a, b in pairwise(merged))
    for data_step in range(60):
        assert is_left_out(data_step, merged) == is_left_out(data_step, windows)


def test_without_windows_a_data_step_is_the_step():
    assert data_step_of(7, []) == 7
    assert list(split_steps(3, 4, [])) == [(3, 4)]

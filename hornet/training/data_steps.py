"""Which global batch a step trains on when windows of them are left out: arithmetic on plain numbers.

A data step numbers the stream's global batches, 0-based. Without windows it is the step. A window is a pair
(first, stop): the data steps `first` to `stop`, excluded, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Windows = Sequence[Sequence[int]]


def merge_windows(windows: Windows) -> list[tuple[int, int]]:
    """Return windows that leave out the same data steps: in order, apart from each other, none empty."""
    merged: list[tuple[int, int]] = []
    for first, stop in sorted((first, stop) for first, stop in windows if first < stop):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        else:
            merged.append((first, stop))
    return merged


def data_step_of(step: int, windows: Windows) -> int:
    """Return the data step of `step` (both 0-based): the `step`-th that lies in no window."""
    data_step = step
    for first, stop in merge_windows(windows):
        if first <= data_step:
            data_step += stop - first
    return data_step


def count_data_steps(num_steps: int, windows: Windows) -> int:
    """Return how far into the data the first `num_steps` steps have come, windows passed on the way included."""
    return 0 if num_steps == 0 else data_step_of(num_steps - 1, windows) + 1


def split_steps(first_step: int, num_steps: int, windows: Windows) -> Iterator[tuple[int, int]]:
    """Yield the data steps of `num_steps` steps from `first_step` on in whole pieces: (first data step, count)."""
    step, end = first_step, first_step + num_steps
    while step < end:
        data_step = data_step_of(step, windows)
        ahead = [first - data_step for first, _ in merge_windows(windows) if first > data_step]
        count = min([end - step, *ahead])
        yield data_step, count
        step += count


def has_same_past(num_steps: int, one: Windows, other: Windows) -> bool:
    """Return whether the first `num_steps` steps train on the same batches under two sets of windows."""
    return _find_passed(num_steps, one) == _find_passed(num_steps, other)


def is_left_out(data_step: int, windows: Windows) -> bool:
    """Return whether a data step lies in a window."""
    return any(first <= data_step < stop for first, stop in windows)


def _find_passed(num_steps: int, windows: Windows) -> list[tuple[int, int]]:
    end = count_data_steps(num_steps, windows)
    return [(first, stop) for first, stop in merge_windows(windows) if first < end]

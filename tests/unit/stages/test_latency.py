"""Times taken by a clock of the test's own: the ways say how long they take."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from hornet.stages.latency import MIN_ROUNDS, NUM_WARMUPS, format_latencies, measure_latency


def test_ways_run_in_turn_and_are_compared_round_by_round() -> None:
    now, calls = 0.0, []

    def take(name: str, durations: list[float]) -> Callable[[Tensor], None]:
        def compute(images: Tensor) -> None:
            nonlocal now
            assert images.shape[1:] == (3, 8, 8)
            calls.append((name, len(images)))
            now += durations[sum(called == (name, len(images)) for called in calls) - 1] * len(images)

        return compute

    # A machine that becomes ten times as slow half way: the ratio is 0.5 all the time. The warm-ups are slow for both.
    slow = [9.0] * NUM_WARMUPS + [1.0, 1.0, 10.0, 10.0, 10.0]
    fast = [5.0] * NUM_WARMUPS + [0.5, 0.5, 5.0, 5.0, 5.0]
    rows = measure_latency(
        {"PyTorch": take("PyTorch", slow), "model.onnx": take("model.onnx", fast)},
        image_size=8,
        batch_sizes=(1, 4),
        seconds=0.0,
        read_clock=lambda: now,
    )
    assert [(row.name, row.batch_size, row.seconds, row.ratio) for row in rows] == [
        ("PyTorch", 1, 10.0, 1.0),
        ("model.onnx", 1, 5.0, 0.5),
        ("PyTorch", 4, 40.0, 1.0),
        ("model.onnx", 4, 20.0, 0.5),
    ]
    assert calls[:4] == [("PyTorch", 1), ("model.onnx", 1)] * 2
    assert len(calls) == 2 * 2 * (NUM_WARMUPS + MIN_ROUNDS)
    head, *lines = format_latencies(rows).splitlines()
    assert head.startswith("latency on ")
    assert head.endswith("fp32")
    assert lines[3].split() == [
        "model.onnx",
        "4",
        "images",
        "20000.00",
        "ms",
        "0.2",
        "images/s",
        "0.50",
        "x",
        "PyTorch",
    ]


def test_rounds_go_on_for_the_seconds_asked_for() -> None:
    now = 0.0

    def compute(_images: Tensor) -> None:
        nonlocal now
        now += 0.25

    measure_latency({"PyTorch": compute}, image_size=8, batch_sizes=(1,), seconds=3.0, read_clock=lambda: now)
    assert now == 0.25 * NUM_WARMUPS + 3.0

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hornet.errors import UserError
from hornet.quantities import list_divisors
from hornet.stages.micro_batch import describe_fit, read_earlier_size
from hornet.training.fitting import (
    CPU_SHARE,
    GPU_MARGIN,
    Fit,
    count_saved_bytes,
    find_largest,
    fit_on_cpu,
    fit_on_gpu,
    read_available_bytes,
)
from hornet.world import ALONE


@given(st.integers(1, 500))
def test_divisors_are_all_that_divide(number):
    assert list_divisors(number) == [size for size in range(1, number + 1) if number % size == 0]


@given(share=st.integers(1, 400), limit=st.integers(0, 500), start=st.floats(0, 600))
def test_the_largest_divisor_that_fits_is_found_from_any_guess(share, limit, start):
    sizes = list_divisors(share)
    expected = max((size for size in sizes if size <= limit), default=None)
    assert find_largest(sizes, start=start, fits=lambda size: size <= limit) == expected


def test_a_good_guess_needs_two_trials():
    tried = []

    def fits(size):
        tried.append(size)
        return size <= 16

    assert find_largest(list_divisors(64), start=20, fits=fits) == 16
    assert tried == [16, 32]


def test_what_autograd_keeps_is_counted_once_and_grows_by_the_image():
    weight = torch.randn(5, 3, requires_grad=True)

    def trial(size):
        (torch.ones(size, 5) @ weight).exp().sum()  # keeps the ones for the product, and exp's result

    assert count_saved_bytes(trial, 2) - count_saved_bytes(trial, 1) == 4 * (5 + 3)


def make_cpu_trial(bytes_per_image):
    weight = torch.ones(1, requires_grad=True)

    def trial(size):
        (torch.ones(size * bytes_per_image // 4) * weight).sum()

    return trial


def test_on_a_cpu_the_reserve_and_the_images_must_fit():
    fit = fit_on_cpu(24, trial=make_cpu_trial(400), reserve_bytes=1000, available_bytes=1000 + 9 * 400)
    assert fit.size == 8, "the largest divisor of 24 up to 9"
    assert 1000 + 8 * 400 <= fit.used_bytes <= 1000 + 8 * 400 + 8
    message = r"not even one image fits in .* shard more \(zero.stage\), set model.activation_checkpointing"
    with pytest.raises(UserError, match=message):
        fit_on_cpu(24, trial=make_cpu_trial(400), reserve_bytes=1000, available_bytes=1200)


class FakeGpu:
    """Counts what a trial would allocate on top of the ballast; runs out as the real one does."""

    def __init__(self, monkeypatch, *, total, per_image):
        self.total, self.per_image, self.held, self.peak, self.sizes = total, per_image, 0, 0, []
        for name, function in {
            "empty_cache": lambda: None,
            "mem_get_info": lambda _device: (total, total),
            "reset_peak_memory_stats": lambda _device: setattr(self, "peak", 0),
            "max_memory_allocated": lambda _device: self.peak,
        }.items():
            monkeypatch.setattr(f"torch.cuda.{name}", function)
        monkeypatch.setattr("hornet.training.fitting.torch.empty", self.allocate)

    def allocate(self, num_bytes, **_options):
        self.held = num_bytes
        if num_bytes > self.total:
            raise torch.cuda.OutOfMemoryError("ballast")
        return SimpleNamespace()

    def trial(self, size):
        self.sizes.append(size)
        self.peak = self.held + size * self.per_image
        if self.peak > self.total:
            raise torch.cuda.OutOfMemoryError("activations")


@given(share=st.integers(1, 200), per_image=st.integers(1, 300), reserve=st.integers(0, 8000))
def test_on_a_gpu_the_largest_divisor_whose_trial_ends_is_taken(share, per_image, reserve):
    with pytest.MonkeyPatch.context() as monkeypatch:
        gpu = FakeGpu(monkeypatch, total=10_000, per_image=per_image)
        room = 10_000 - reserve - int(GPU_MARGIN * 10_000)
        fitting = [size for size in list_divisors(share) if size * per_image <= room]
        search = {"trial": gpu.trial, "reserve_bytes": reserve, "device": torch.device("cuda")}
        if not fitting:
            with pytest.raises(UserError, match="not even one image fits"):
                fit_on_gpu(share, **search)
            return
        fit = fit_on_gpu(share, **search)
        assert fit.size == max(fitting)
        assert fit.used_bytes == reserve + fit.size * per_image
        assert len(gpu.sizes) <= 6, "each trial is a forward and a backward pass"


def test_a_node_shares_its_memory_among_its_ranks(tmp_path):
    source = tmp_path / "meminfo"
    source.write_text("MemTotal: 9 kB\nMemAvailable:    4000 kB\n")
    assert read_available_bytes(2, source=source) == int(CPU_SHARE * 4000 * 1024 / 2)
    with pytest.raises(UserError, match=r"auto needs .*nowhere, which this system lacks; give a number"):
        read_available_bytes(2, source=tmp_path / "nowhere")


def test_a_run_keeps_its_size_on_as_many_ranks():
    checkpoint = SimpleNamespace(description={"num_ranks": 1, "micro_batch_size": 16})
    assert read_earlier_size(checkpoint, ALONE) == 16
    assert read_earlier_size(SimpleNamespace(description={"num_ranks": 2, "micro_batch_size": 16}), ALONE) is None
    assert read_earlier_size(None, ALONE) is None
    line = describe_fit(Fit(size=8, used_bytes=2**30, total_bytes=4 * 2**30), share=32)
    assert line == "micro_batch_size: 8 of 32, 1.0 of 4.0 GiB"

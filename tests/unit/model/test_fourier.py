"""The transforms against torch.fft, in values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from hornet.model import fourier

GRIDS = [(14, 14), (7, 7), (24, 24), (12, 12), (1, 1), (1, 8), (8, 1), (5, 9), (13, 6), (6, 13), (2, 3), (10, 10)]


def to_spectrum(parts: Tensor) -> Tensor:
    """Our (B, H, 2, K, C) -> complex (B, H, K, C)."""
    return torch.complex(parts[:, :, 0], parts[:, :, 1])


def to_parts(spectrum: Tensor) -> Tensor:
    return torch.stack([spectrum.real, spectrum.imag], dim=2)


@pytest.mark.parametrize("grid", GRIDS)
def test_transform_equals_rfft2_in_float32(grid: tuple[int, int]) -> None:
    x = torch.randn(2, *grid, 5)
    expected = torch.fft.rfft2(x, dim=(1, 2), norm="ortho")
    torch.testing.assert_close(to_spectrum(fourier.transform(x)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("grid", GRIDS)
def test_inverse_equals_irfft2_for_spectra_of_no_real_image(grid: tuple[int, int]) -> None:
    height, width = grid
    parts = torch.randn(2, height, 2, width // 2 + 1, 5)
    expected = torch.fft.irfft2(to_spectrum(parts), s=grid, dim=(1, 2), norm="ortho")
    torch.testing.assert_close(fourier.inverse_transform(parts, width=width), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("grid", GRIDS)
def test_gradients_equal_those_of_torch_fft(grid: tuple[int, int]) -> None:
    height, width = grid
    x = torch.randn(2, *grid, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(height, 2, width // 2 + 1, 3, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn_like(x)

    ours_parts = fourier.transform(x)
    product = to_spectrum(ours_parts) * to_spectrum(weight[None])
    ours = fourier.inverse_transform(to_parts(product), width=width)
    theirs_product = torch.fft.rfft2(x, dim=(1, 2), norm="ortho") * to_spectrum(weight[None])
    theirs = torch.fft.irfft2(theirs_product, s=grid, dim=(1, 2), norm="ortho")

    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for mine, reference in zip(
        torch.autograd.grad(ours, (x, weight), upstream),
        torch.autograd.grad(theirs, (x, weight), upstream),
        strict=True,
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-11, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 17), width=st.integers(1, 17), seed=st.integers(0, 2**16))
def test_inverse_undoes_the_transform_and_energy_is_kept(height: int, width: int, seed: int) -> None:
    x = torch.randn(1, height, width, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    parts = fourier.transform(x)
    torch.testing.assert_close(fourier.inverse_transform(parts, width=width), x, rtol=1e-11, atol=1e-12)
    # Parseval: columns with a mirror image count twice.
    counts = torch.full((width // 2 + 1,), 2.0, dtype=torch.float64)
    counts[0] = 1.0
    if width % 2 == 0:
        counts[-1] = 1.0
    energy = (parts.square().sum(dim=2) * counts[:, None]).sum()
    torch.testing.assert_close(energy, x.square().sum(), rtol=1e-11, atol=1e-12)


def test_training_works_after_a_first_use_in_inference_mode() -> None:
    fourier._bases.clear()
    with torch.inference_mode():
        fourier.transform(torch.randn(1, 4, 6, 2))
    x = torch.randn(1, 4, 6, 2, requires_grad=True)
    fourier.transform(x).square().sum().backward()
    assert x.grad is not None


def test_cache_of_bases_stays_bounded_and_holds_plain_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fourier, "_MAX_BASES", 6)
    fourier._bases.clear()
    for size in range(1, 20):
        fourier.transform(torch.randn(1, size, size, 1))
    assert len(fourier._bases) == 6
    assert all(type(basis) is torch.Tensor and not basis.requires_grad for basis in fourier._bases.values())


class WithoutFloat64(TorchDispatchMode):
    """As devices of Apple's: they hold no tensor of double precision."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        out = function(*arguments, **(options or {}))
        assert not isinstance(out, Tensor) or (out.device.type, out.dtype) != ("mps", torch.float64), function
        return out


def test_devices_without_float64_get_their_bases_from_the_cpu() -> None:
    with FakeTensorMode(), WithoutFloat64():
        x = torch.empty(2, 6, 9, 3, device="mps")
        image = fourier.inverse_transform(fourier.transform(x), width=9)
    assert (image.shape, image.device.type, image.dtype) == (x.shape, "mps", torch.float32)


def test_meta_tensors_give_shapes() -> None:
    x = torch.empty(2, 5, 9, 3, device="meta")
    parts = fourier.transform(x)
    assert parts.shape == (2, 5, 2, 5, 3)
    assert fourier.inverse_transform(parts, width=9).shape == x.shape

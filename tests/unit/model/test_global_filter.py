import copy
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from hornet.model.global_filter import GlobalLocalFilter, apply_filter, resize_filter

GRIDS = [(4, 4), (5, 5), (3, 6), (6, 3), (1, 5), (5, 1), (1, 1)]


def convolve_circularly(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """y[i, j] = sum over m, n of x[m, n] kernel[(i - m) mod H, (j - n) mod W], written out."""
    height, width = x.shape
    y = np.zeros_like(x)
    for i in range(height):
        for j in range(width):
            for m in range(height):
                for n in range(width):
                    y[i, j] += x[m, n] * kernel[(i - m) % height, (j - n) % width]
    return y


def sum_spectrum(kernel: np.ndarray) -> np.ndarray:
    """Half spectrum (H, W // 2 + 1) of a kernel by the defining sum, unnormalised."""
    height, width = kernel.shape
    spectrum = np.zeros((height, width // 2 + 1), dtype=complex)
    for u in range(height):
        for v in range(width // 2 + 1):
            for m in range(height):
                for n in range(width):
                    spectrum[u, v] += kernel[m, n] * np.exp(-2j * np.pi * (u * m / height + v * n / width))
    return spectrum


def apply_with_torch_fft(x: Tensor, weight: Tensor) -> Tensor:
    """(B, H, W, C) and (C, h, w, 2) through torch.fft, the original's way."""
    spectrum = torch.fft.rfft2(x, dim=(1, 2), norm="ortho") * torch.view_as_complex(weight).permute(1, 2, 0)
    return torch.fft.irfft2(spectrum, s=x.shape[1:3], dim=(1, 2), norm="ortho")


def build_filter(*, channels: int = 8, grid: tuple[int, int] = (6, 4)) -> GlobalLocalFilter:
    module = GlobalLocalFilter(channels, grid=grid)
    torch.nn.init.normal_(module.complex_weight, std=0.5)
    return module


@pytest.mark.parametrize("grid", GRIDS)
def test_filter_is_the_circular_convolution_with_its_kernel(grid: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    x, kernel = random.standard_normal((2, *grid))
    spectrum = sum_spectrum(kernel)
    weight = torch.from_numpy(np.stack([spectrum.real, spectrum.imag], axis=-1))[None]
    ours = apply_filter(torch.from_numpy(x)[None, :, :, None], weight)[0, :, :, 0]
    np.testing.assert_allclose(ours.numpy(), convolve_circularly(x, kernel), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("grid", [(14, 14), (7, 7), (24, 24), (11, 9), (9, 12), (3, 1)])
def test_filter_equals_torch_fft_to_1e_5_in_float32_with_gradients(grid: tuple[int, int]) -> None:
    x = torch.randn(2, *grid, 6, requires_grad=True)
    weight = torch.randn(6, grid[0], grid[1] // 2 + 1, 2, requires_grad=True)
    ours, theirs = apply_filter(x, weight), apply_with_torch_fft(x, weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    upstream = torch.randn_like(ours)
    ours_gradients = torch.autograd.grad(ours, (x, weight), upstream)
    for mine, reference in zip(ours_gradients, torch.autograd.grad(theirs, (x, weight), upstream), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-4)


def test_even_channels_come_from_the_local_half_and_odd_ones_from_the_global() -> None:
    module = build_filter(channels=6, grid=(5, 3))
    module.post_norm = torch.nn.Identity()
    x = torch.randn(2, 5, 5, 6)
    out = module(x)
    local_half, global_half = module.pre_norm(x).split(3, dim=-1)
    torch.testing.assert_close(out[..., 0::2], module.dw(local_half))
    torch.testing.assert_close(out[..., 1::2], apply_with_torch_fft(global_half, module.complex_weight))


RESIZINGS = [((7, 4), (12, 7)), ((14, 8), (5, 3)), ((4, 3), (4, 3)), ((3, 2), (1, 1))]


def interpolate_by_hand(weight: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Bilinear with corners aligned: position i of n samples the source at i (m - 1) / (n - 1)."""
    channels, height, width, parts = weight.shape
    out = np.zeros((channels, *grid, parts))
    for i in range(grid[0]):
        for j in range(grid[1]):
            row = i * (height - 1) / (grid[0] - 1) if grid[0] > 1 else 0.0
            column = j * (width - 1) / (grid[1] - 1) if grid[1] > 1 else 0.0
            top, left = int(row), int(column)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            down, across = row - top, column - left
            out[:, i, j] = (1 - down) * ((1 - across) * weight[:, top, left] + across * weight[:, top, right])
            out[:, i, j] += down * ((1 - across) * weight[:, bottom, left] + across * weight[:, bottom, right])
    return out


@pytest.mark.parametrize(
    ("before", "after"), [((7, 4), (12, 7)), ((14, 8), (5, 3)), ((4, 3), (4, 3)), ((3, 2), (1, 1))]
)
def test_resizing_is_bilinear_with_corners_aligned(before: tuple[int, int], after: tuple[int, int]) -> None:
    weight = torch.randn(3, *before, 2, dtype=torch.float64)
    np.testing.assert_allclose(
        resize_filter(weight, after).numpy(), interpolate_by_hand(weight.numpy(), after), rtol=1e-12, atol=1e-12
    )


def test_a_filter_of_another_grid_is_resized_on_the_fly() -> None:
    module = build_filter(channels=8, grid=(6, 4))
    x = torch.randn(2, 9, 11, 8)
    out = module(x)
    resized = build_filter(channels=8, grid=(9, 6))
    state_dict = module.state_dict()
    state_dict["complex_weight"] = resize_filter(state_dict["complex_weight"], (9, 6))
    resized.load_state_dict(state_dict)
    torch.testing.assert_close(out, resized(x))


def test_arithmetic_stays_float32_under_autocast() -> None:
    x, weight = torch.randn(2, 14, 14, 6), torch.randn(6, 14, 8, 2)
    exact = apply_filter(x, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = apply_filter(x, weight)
    assert under_autocast.dtype is torch.float32
    assert torch.equal(under_autocast, exact)


def test_arithmetic_stays_float32_with_parameters_cast_to_bfloat16() -> None:
    x, weight = torch.randn(2, 14, 14, 6).bfloat16(), torch.randn(6, 14, 8, 2).bfloat16()
    torch.testing.assert_close(
        apply_filter(x, weight), apply_with_torch_fft(x.float(), weight.float()), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("mode", ["autocast", "cast"])
def test_layer_under_bfloat16_is_near_float32_with_all_gradients(mode: str) -> None:
    module = build_filter(channels=16, grid=(7, 4))
    x, upstream = torch.randn(2, 7, 7, 16), torch.randn(2, 7, 7, 16)
    exact = module(x)
    exact_gradients = torch.autograd.grad(exact, tuple(module.parameters()), upstream)
    if mode == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = module(x)
    else:
        module = copy.deepcopy(module).bfloat16()
        rounded = module(x.bfloat16())
        assert rounded.dtype is torch.bfloat16
    gradients = torch.autograd.grad(rounded, tuple(module.parameters()), upstream.to(rounded.dtype))
    assert (rounded.float() - exact).norm() / exact.norm() < 2e-2
    for gradient, reference in zip(gradients, exact_gradients, strict=True):
        assert (gradient.float() - reference).norm() / reference.norm() < 3e-2


def test_copies_and_pickles_compute_the_same() -> None:
    module = build_filter()
    x = torch.randn(1, 6, 6, 8)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x), module(x))


def test_the_layer_holds_real_parameters_with_axes_and_no_buffers() -> None:
    module = build_filter()
    assert all(parameter.dtype is torch.float32 and parameter.dim() > 0 for parameter in module.parameters())
    assert not list(module.buffers())


def test_odd_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="channels is 7, but a global filter splits them in two halves"):
        GlobalLocalFilter(7, grid=(4, 3))


def test_an_empty_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"grid is \(0, 1\), but a filter needs at least \(1, 1\)"):
        GlobalLocalFilter(8, grid=(0, 1))

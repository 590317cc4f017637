"""Filters resized by frequencies, held to the law: they do to a resampled image what they did to the image."""

import numpy as np
import pytest
import torch

from hornet.model.global_filter import resize_filter
from hornet.model.hornet import HorNet
from hornet.model.resize import choose_resize, fit_to_model, get_filter_grids, get_resize, resize_filters
from tests.unit.model.small_model import fill_visibly

SIZES = [(4, 6), (4, 7), (5, 8), (5, 7), (6, 7), (7, 8), (14, 24), (7, 12), (1, 3), (2, 4), (2, 3)]


def resample(image: np.ndarray, size: int) -> np.ndarray:
    """The trigonometric polynomial through a square image, at `size` points a side: by its definition, real part."""
    for axis in (0, 1):
        image = np.moveaxis(image, axis, 0)
        before = len(image)
        points, new_points = np.arange(before) / before, np.arange(size) / size
        result = 0
        for frequency in range(-(before // 2), before // 2 + 1):
            weight = 0.5 if 2 * abs(frequency) == before else 1.0
            coefficient = np.tensordot(np.exp(-2j * np.pi * frequency * points), image, axes=1) / before
            result = result + weight * np.exp(2j * np.pi * frequency * new_points)[:, None] * coefficient
        image = np.moveaxis(result, 0, axis)
    return image.real


def apply_to(image: np.ndarray, weight: torch.Tensor) -> np.ndarray:
    spectrum = np.fft.rfft2(image, norm="ortho") * torch.view_as_complex(weight[0]).numpy()
    return np.fft.irfft2(spectrum, s=image.shape, norm="ortho")


def draw_filter(size: int) -> torch.Tensor:
    """Any numbers: as learned, of no real kernel."""
    random = torch.Generator().manual_seed(size)
    return torch.randn(1, size, size // 2 + 1, 2, dtype=torch.float64, generator=random)


def resize_to(weight: torch.Tensor, size: int) -> torch.Tensor:
    return resize_filter(weight, (size, size // 2 + 1), how="spectral").contiguous()


@pytest.mark.parametrize(("small", "large"), SIZES)
def test_on_a_larger_image_it_does_what_it_did_on_the_image(small, large):
    image, weight = np.random.default_rng(0).standard_normal((small, small)), draw_filter(small)
    np.testing.assert_allclose(
        apply_to(resample(image, large), resize_to(weight, large)),
        resample(apply_to(image, weight), large),
        atol=1e-12,
    )


@pytest.mark.parametrize(("small", "large"), SIZES)
def test_on_a_smaller_image_it_does_what_it_did_on_an_image_without_higher_frequencies(small, large):
    image, weight = np.random.default_rng(1).standard_normal((small, small)), draw_filter(large)
    np.testing.assert_allclose(
        apply_to(image, resize_to(weight, small)),
        resample(apply_to(resample(image, large), weight), small),
        atol=1e-12,
    )


def test_bilinear_does_not_obey_the_law():
    """Else the tests above would hold anything."""
    image, weight = np.random.default_rng(0).standard_normal((7, 7)), draw_filter(7)
    resized = resize_filter(weight, (12, 7)).contiguous()
    off = apply_to(resample(image, 12), resized) - resample(apply_to(image, weight), 12)
    assert np.abs(off).max() > 0.1


@pytest.mark.parametrize("size", [4, 5, 14])
def test_on_its_own_grid_and_there_and_back_it_does_the_same(size):
    image, weight = np.random.default_rng(2).standard_normal((size, size)), draw_filter(size)
    for resized in (resize_to(weight, size), resize_to(resize_to(weight, 2 * size + 1), size)):
        np.testing.assert_allclose(apply_to(image, resized), apply_to(image, weight), atol=1e-12)


def test_frequencies_stand_where_they_belong():
    """4 x 4 -> 6 x 6 by hand: rows 0, 1, 2, -1 of the half spectrum become 0, 1, 2, none, -2, -1."""
    weight = torch.arange(1, 13, dtype=torch.float64).reshape(1, 4, 3, 1).repeat(1, 1, 1, 2) * torch.tensor([1.0, 0.0])
    resized = resize_to(weight, 6)[0, :, :, 0]
    # Nyquist's column (3, 6, 9, 12) is the mean of u and -u: 3, (6 + 12) / 2, 9, (12 + 6) / 2.
    first, second, third, fourth = [1.0, 2, 3, 0], [4.0, 5, 9, 0], [7.0, 8, 9, 0], [10.0, 11, 9, 0]
    assert resized.tolist() == [first, second, third, [0.0] * 4, third, fourth]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_are_kept(dtype):
    assert resize_to(draw_filter(7).to(dtype), 12).dtype is dtype


def build_model(img_size: int, how: str) -> HorNet:
    torch.manual_seed(0)
    model = HorNet(
        width=8, depths=(1, 1, 2, 1), filter_stages=(2, 3), img_size=img_size, num_classes=5, layer_scale_init=1.0
    ).eval()
    assert choose_resize(model, how) == 3
    return fill_visibly(model)


@pytest.mark.slow
def test_loading_at_a_larger_size_is_resizing_on_the_fly():
    small, large, bilinear = build_model(64, "spectral"), build_model(96, "spectral"), build_model(96, "bilinear")
    images = torch.randn(2, 3, 96, 96)
    expected = small(images)
    large.load_state_dict(fit_to_model(small.state_dict(), large))
    torch.testing.assert_close(large(images), expected)
    with pytest.warns(UserWarning, match="global filters of 4 x 3 were resampled to 6 x 4"):
        large.load_state_dict(small.state_dict())
    torch.testing.assert_close(large(images), expected)
    bilinear.load_state_dict(fit_to_model(small.state_dict(), bilinear))
    assert (bilinear(images) - expected).abs().max() > 1e-4
    assert (get_resize(large), get_resize(bilinear)) == ("spectral", "bilinear")


def test_a_state_dict_is_resized_as_its_filters_are():
    name, weight = "a.complex_weight", draw_filter(7)
    resized = resize_filters({name: weight}, grids={name: (12, 7)}, how="spectral")
    assert torch.equal(resized[name], resize_to(weight, 12))
    assert resize_filters({name: weight}, grids={name: (7, 4)}, how="spectral")[name] is weight
    assert get_filter_grids(build_model(64, "spectral"))["stages.3.0.gnconv.dwconv.complex_weight"] == (2, 2)

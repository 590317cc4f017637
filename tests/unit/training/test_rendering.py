import pytest
import torch

from hornet.training.rendering import choose_filters, render_filters, render_images


def test_images_are_rendered_as_they_were_before_normalising():
    images = torch.rand(3, 3, 5, 5)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    normalised = (images - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    grid = render_images(normalised, mean=mean, std=std)
    torch.testing.assert_close(grid[:, 2:7, 2:7], images[0])


@pytest.mark.parametrize(("height", "width"), [(6, 7), (5, 5), (1, 3)])
def test_a_filter_image_is_the_whole_centred_spectrum(height, width):
    """The image of an rfft2 half equals the magnitude of the full fft2 of the same real kernel."""
    kernels = torch.randn(2, height, width, dtype=torch.float64)
    half = torch.view_as_real(torch.fft.rfft2(kernels))
    grid = render_filters(half, cell_pixels=1)
    whole = torch.fft.fftshift(torch.fft.fft2(kernels).abs(), dim=(1, 2))
    for channel in range(2):
        left = 1 + channel * (width + 1)
        cell = grid[0, 1 : 1 + height, left : left + width]
        torch.testing.assert_close(cell, (whole[channel] / whole[channel].max()).float())


def test_a_few_filters_are_chosen_from_first_to_last():
    names = [f"stages.2.{i}.complex_weight" for i in range(20)]
    chosen = choose_filters(names)
    assert chosen[0] == names[0]
    assert chosen[-1] == names[-1]
    assert len(set(chosen)) == 6

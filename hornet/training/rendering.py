"""What people would rather look at than read: augmented images and learned filters, as arrays for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.utils import make_grid


def render_images(
    images_bchw: Tensor, *, mean: tuple[float, ...], std: tuple[float, ...], num_images: int = 32
) -> Tensor:
    """Return normalised images (B, 3, H, W) as one grid (3, H', W') of values in 0..1, as the network sees them."""
    images = images_bchw[:num_images].detach().float().cpu()
    shape = (1, 3, 1, 1)
    restored = images * torch.tensor(std).view(shape) + torch.tensor(mean).view(shape)
    grid: Tensor = make_grid(restored.clamp(0, 1), nrow=8, padding=2)
    return grid


def render_filters(weight: Tensor, *, num_channels: int = 32, cell_pixels: int = 56) -> Tensor:
    """Return the magnitude of global filters as one grid (3, H', W') with the zero frequency in the middle.

    `weight` is (C, H, W // 2 + 1, 2): the half spectrum of an rfft2, real and imaginary parts. The missing half mirrors
    it: |F(-v, -u)| = |F(v, u)| for a real filter. Each channel is scaled to its own largest magnitude, and enlarged to
    about `cell_pixels`.
    """
    magnitude = weight[:num_channels].detach().float().cpu().norm(dim=-1)
    # rows reversed about row 0, columns 1 .. from the right
    mirrored = torch.roll(magnitude.flip(1), 1, dims=1)[:, :, 1:].flip(2)
    whole = torch.fft.fftshift(torch.cat([magnitude, mirrored], dim=2), dim=(1, 2))
    scaled = whole / whole.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    enlarged = max(1, cell_pixels // max(scaled.shape[1:]))
    cells = scaled.repeat_interleave(enlarged, 1).repeat_interleave(enlarged, 2)
    grid: Tensor = make_grid(cells[:, None], nrow=8, padding=1, pad_value=0.5)
    return grid


def choose_filters(names: Sequence[str], *, num_filters: int = 6) -> list[str]:
    """Return a few of a network's filters, spread from the first to the last."""
    if len(names) <= num_filters:
        return list(names)
    return [names[round(i * (len(names) - 1) / (num_filters - 1))] for i in range(num_filters)]

"""The GF layer of HorNet: half of the channels through a 3x3 convolution, half through a learned global filter.

Source: HorNet (arXiv 2207.14284) and the original code's `GlobalLocalFilter` (raoyongming/HorNet at ac9e210).
"""

import warnings
from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hornet.model.convolution import build_depthwise_conv
from hornet.model.fourier import inverse_transform, transform
from hornet.model.sizes import Resize
from hornet.model.spectral import resize_spectrally

FilterGrid = tuple[int, int]
"""Height and width of a filter's half spectrum: (H, W // 2 + 1) for images of H x W positions."""

NORM_EPS = 1e-6


def resize_filter(weight: Tensor, grid: FilterGrid, *, how: Resize = "bilinear") -> Tensor:
    """Bring a filter (C, h, w, 2) to another grid, in at least float32; the dtype is kept.

    bilinear: the grid as an image, corners aligned, real and imaginary parts apart, as the original does. spectral: see
    hornet/model/spectral.py.
    """
    precise = weight if weight.element_size() >= 4 else weight.float()
    if how == "spectral":
        return resize_spectrally(precise, grid).to(weight.dtype)
    parts = functional.interpolate(precise.permute(3, 0, 1, 2), size=grid, mode="bilinear", align_corners=True)
    return parts.permute(1, 2, 3, 0).to(weight.dtype)


@torch.fx.wrap
def apply_filter(x_bhwc: Tensor, weight: Tensor, how: Resize = "bilinear") -> Tensor:
    """Multiply the spectrum of real (B, H, W, C) by a filter (C, h, w, 2), brought to the grid of x if it differs.

    A leaf to torch.fx, which knows no dtypes and sizes. The arithmetic is float32 (float64 for float64 input) whatever
    autocast or the parameters' dtype say, because bfloat16 keeps only 8 bits of a sum over all positions. Returns
    float32 or float64.
    """
    device_type = x_bhwc.device.type
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        with torch.autocast(device_type, enabled=False):
            return _apply_filter(x_bhwc, weight, how)
    return _apply_filter(x_bhwc, weight, how)


def _apply_filter(x_bhwc: Tensor, weight: Tensor, how: Resize) -> Tensor:
    dtype = torch.float64 if x_bhwc.dtype is torch.float64 else torch.float32
    x, weight = x_bhwc.to(dtype), weight.to(dtype)
    _, height, width, _ = x.shape
    grid = (height, width // 2 + 1)
    # A graph that is exported for any size always resizes, which on the filter's own grid changes nothing; to ask
    # whether it must would tie the graph to the size it was traced with.
    is_any_size = not all(isinstance(length, int) for length in grid)
    if is_any_size or tuple(weight.shape[1:3]) != grid:
        weight = resize_filter(weight, grid, how=how)
    # One small copy here, so that the products over the batch read the filter along its channels.
    filter_real, filter_imaginary = weight.permute(3, 1, 2, 0).contiguous().unbind(0)
    real, imaginary = transform(x).unbind(2)
    product = torch.stack(
        [
            real * filter_real - imaginary * filter_imaginary,
            real * filter_imaginary + imaginary * filter_real,
        ],
        dim=2,
    )
    return inverse_transform(product, width=width)


class GlobalLocalFilter(nn.Module):
    """LayerNorm, then local (3x3 depthwise) and global (filter) halves interleaved channel by channel, then LayerNorm.

    `complex_weight` is real, (channels / 2, h, w, 2): ZeRO refuses complex parameters, and casts must not drop a part.
    `resize` is how it is brought to another grid.
    """

    def __init__(self, channels: int, *, grid: FilterGrid) -> None:
        super().__init__()
        if channels % 2:
            raise ValueError(
                f"channels is {channels}, but a global filter splits them in two halves: give an even number."
            )
        if min(grid) < 1:
            raise ValueError(f"grid is {grid}, but a filter needs at least (1, 1): give a larger image size.")
        half = channels // 2
        self.resize: Resize = "bilinear"
        self.dw = build_depthwise_conv(half, kernel_size=3, bias=False)
        self.complex_weight = nn.Parameter(torch.empty(half, *grid, 2))
        self.pre_norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.post_norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the filter: normal with standard deviation 0.02, as in the original."""
        nn.init.normal_(self.complex_weight, std=0.02)

    def _load_from_state_dict(self, state_dict: MutableMapping[str, Tensor], prefix: str, *arguments: Any) -> None:
        """Read a filter of another image size too: resized to this one's grid as in finetuning, with a warning.

        Here, since timm calls a filter function for `pretrained`, but none for `checkpoint_path`.
        """
        name = f"{prefix}complex_weight"
        weight, own = state_dict.get(name), self.complex_weight
        # Under ZeRO-3 both are placeholders of one axis; what differs in more than its grid is torch's to refuse.
        if (
            weight is not None
            and weight.dim() == own.dim() == 4
            and weight.shape[::3] == own.shape[::3]
            and weight.shape[1:3] != own.shape[1:3]
        ):
            grid = (own.shape[1], own.shape[2])
            warnings.warn(
                f"global filters of {weight.shape[1]} x {weight.shape[2]} were resampled to {grid[0]} x {grid[1]}: the "
                "weights were made for another image size (img_size)",
                stacklevel=2,
            )
            state_dict[name] = resize_filter(weight, grid, how=self.resize).contiguous()
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def forward(self, x_bhwc: Tensor) -> Tensor:
        """(B, H, W, channels) -> the same shape."""
        x = self.pre_norm(x_bhwc)
        local_half, global_half = x.chunk(2, dim=-1)
        local_half = self.dw(local_half)
        global_half = apply_filter(global_half, self.complex_weight, self.resize).to(x.dtype)
        # Output channel 2i comes from the local half, 2i + 1 from the global one.
        mixed = torch.stack([local_half, global_half], dim=-1).flatten(-2)
        out: Tensor = self.post_norm(mixed)
        return out

"""Layers of decoders under OpenMMLab's names, which the original's checkpoints have: conv, bn."""

from torch import Tensor, nn

from hornet.model.global_filter import FilterGrid
from hornet.model.plug_in import GnConv2d

GNCONV_ORDER = 2
"""Of every gnConv in a HorFPN."""
FILTER_GRID: FilterGrid = (32, 17)
"""Of a HorFPN's global filters: for maps of 32 x 32."""


class ConvNormRelu(nn.Module):
    """Convolution that keeps the size, batch norm, ReLU: (B, in, H, W) -> (B, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.activate = nn.ReLU()

    def forward(self, x_bchw: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        out: Tensor = self.activate(self.bn(self.conv(x_bchw)))
        return out


class PlainConv(nn.Module):
    """Convolution with bias that keeps the size, as a pyramid for detection has it."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        out: Tensor = self.conv(x_bchw)
        return out


class HorFpnConv(GnConv2d):
    """gnConv of order 2 in the place of a pyramid's 3x3 convolution, its gates not scaled.

    `is_global` puts a global filter into it (resampled for maps of other sizes than 32 x 32) instead of a 7x7
    depthwise convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, *, is_global: bool) -> None:
        super().__init__(
            out_channels,
            in_channels=in_channels,
            order=GNCONV_ORDER,
            scale=1.0,
            filter_grid=FILTER_GRID if is_global else None,
        )


class HorFpnConvNormRelu(HorFpnConv):
    """The same with batch norm and ReLU behind it."""

    def __init__(self, in_channels: int, out_channels: int, *, is_global: bool) -> None:
        super().__init__(in_channels, out_channels, is_global=is_global)
        self.bn = nn.BatchNorm2d(out_channels)
        self.activate = nn.ReLU()

    def forward(self, x_bchw: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        out: Tensor = self.activate(self.bn(super().forward(x_bchw)))
        return out

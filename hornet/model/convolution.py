"""Convolutions over channels-last tensors (B, H, W, C) whose weights keep the original 4-D kernels.

They stay subclasses of nn.Conv2d so that state dicts hold (out, in, k, k) and weight initialisation, weight decay and
DeepSpeed's parameter hooks find them as usual; only the layout of what flows through differs.
"""

from torch import Tensor, nn
from torch.nn import functional


class PointwiseConv(nn.Conv2d):
    """1x1 convolution as the matrix product it is: (B, H, W, in) -> (B, H, W, out)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1)

    def forward(self, x_bhwc: Tensor) -> Tensor:
        """(B, H, W, in) -> (B, H, W, out)."""
        return functional.linear(x_bhwc, self.weight.flatten(1), self.bias)


class ChannelsLastConv(nn.Conv2d):
    """Any other convolution: (B, H, W, in) -> (B, H', W', out).

    The permuted view carries channels-last strides, so the kernels run in that layout and nothing is copied.
    """

    def forward(self, x_bhwc: Tensor) -> Tensor:
        """(B, H, W, in) -> (B, H', W', out)."""
        return super().forward(x_bhwc.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def build_depthwise_conv(channels: int, *, kernel_size: int, bias: bool) -> ChannelsLastConv:
    """Depthwise convolution that keeps the spatial size."""
    return ChannelsLastConv(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, bias=bias)


def build_patch_conv(in_channels: int, out_channels: int, *, patch_size: int) -> ChannelsLastConv:
    """Convolution over disjoint patches: the stem and the downsampling between stages."""
    return ChannelsLastConv(in_channels, out_channels, patch_size, stride=patch_size)

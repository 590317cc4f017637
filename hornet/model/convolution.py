"""Convolutions over channels-last tensors (B, H, W, C) whose weights keep the original 4-D kernels.

They stay subclasses of nn.Conv2d so that state dicts hold (out, in, k, k) and weight initialisation, weight decay and
DeepSpeed's parameter hooks find them as usual; only the layout of what flows through differs.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


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


class DepthwiseConv(ChannelsLastConv):
    """Depthwise convolution; `num_gate_channels` asks for all that a gnConv does around it, in one kernel.

    The kernel is called here, not beside the other gates: ZeRO-3 gathers weights for the module that owns them.
    """

    def forward(self, x_bhwc: Tensor, *, num_gate_channels: int = 0, scale: float = 1.0) -> Tensor:
        """(B, H, W, channels) -> the same shape; (B, H, W, gate + channels) with a gate, as in kernels/depthwise.py."""
        if not num_gate_channels:
            return super().forward(x_bhwc)
        z: Tensor = torch.ops.hornet.gated_depthwise(x_bhwc, self.weight, self.bias, num_gate_channels, scale)
        return z


class ChannelsLast(nn.Sequential):
    """Layers over (B, H, W, C) in a row, which outside, to hooks too, are one layer over maps (B, C, H, W).

    The border costs two views. `grad_checkpointing` computes each layer again in the backward pass.
    """

    grad_checkpointing = False

    def forward(self, x_bchw: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H', W')."""
        x: Any = x_bchw.permute(0, 2, 3, 1)
        for layer in self:
            x = checkpoint(layer, x, use_reentrant=False) if self.grad_checkpointing else layer(x)
        out: Tensor = x.permute(0, 3, 1, 2)
        return out


def build_depthwise_conv(channels: int, *, kernel_size: int, bias: bool) -> DepthwiseConv:
    """Depthwise convolution that keeps the spatial size."""
    return DepthwiseConv(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, bias=bias)


def build_patch_conv(in_channels: int, out_channels: int, *, patch_size: int) -> ChannelsLastConv:
    """Convolution over disjoint patches: the stem and the downsampling between stages."""
    return ChannelsLastConv(in_channels, out_channels, patch_size, stride=patch_size)

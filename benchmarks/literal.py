"""HorNet in the original's structure: channels first, eager, hand-made LayerNorms, complex FFT in float32.

Written from the paper's equations and the description of the original's structure. Its state dict has the names and
shapes of ours, so one set of weights serves both. Readable, not fast: it is what benchmarks/model.py divides by, and a
second opinion for the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

EPS = 1e-6


class ChannelsFirstNorm(nn.Module):
    """LayerNorm over the channels of (B, C, H, W), one element-wise operation after the other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_bchw: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        mean = x_bchw.mean(1, keepdim=True)
        variance = (x_bchw - mean).pow(2).mean(1, keepdim=True)
        normed = (x_bchw - mean) / torch.sqrt(variance + EPS)
        return self.weight[:, None, None] * normed + self.bias[:, None, None]


class LiteralFilter(nn.Module):
    """Half of the channels through a 3x3 convolution, half through rfft2, a complex product and irfft2."""

    def __init__(self, channels: int, *, grid: tuple[int, int]) -> None:
        super().__init__()
        half = channels // 2
        self.dw = nn.Conv2d(half, half, 3, padding=1, bias=False, groups=half)
        self.complex_weight = nn.Parameter(torch.randn(half, *grid, 2) * 0.02)
        self.pre_norm = ChannelsFirstNorm(channels)
        self.post_norm = ChannelsFirstNorm(channels)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        local_half, global_half = torch.chunk(self.pre_norm(x_bchw), 2, dim=1)
        local_half = self.dw(local_half)
        with torch.autocast(x_bchw.device.type, enabled=False):
            height, width = global_half.shape[2:]
            spectrum = torch.fft.rfft2(global_half.float(), dim=(2, 3), norm="ortho")
            weight: Tensor = self.complex_weight
            if weight.shape[1:3] != spectrum.shape[2:]:
                parts = weight.permute(3, 0, 1, 2)
                parts = functional.interpolate(parts, spectrum.shape[2:], mode="bilinear", align_corners=True)
                weight = parts.permute(1, 2, 3, 0)
            spectrum = spectrum * torch.view_as_complex(weight.contiguous())
            filtered = torch.fft.irfft2(spectrum, s=(height, width), dim=(2, 3), norm="ortho")
        halves = torch.cat([local_half.unsqueeze(2), filtered.unsqueeze(2)], dim=2)
        normed: Tensor = self.post_norm(halves.reshape(x_bchw.shape))
        return normed


class LiteralGnConv(nn.Module):
    """The recursion of the paper with 1x1 convolutions."""

    def __init__(self, channels: int, *, order: int, grid: tuple[int, int] | None) -> None:
        super().__init__()
        self.dims = [channels // 2**i for i in range(order)][::-1]
        total = sum(self.dims)
        self.proj_in = nn.Conv2d(channels, 2 * channels, 1)
        self.dwconv: nn.Module = (
            nn.Conv2d(total, total, 7, padding=3, groups=total) if grid is None else LiteralFilter(total, grid=grid)
        )
        self.proj_out = nn.Conv2d(channels, channels, 1)
        self.pws = nn.ModuleList(nn.Conv2d(self.dims[i], self.dims[i + 1], 1) for i in range(order - 1))

    def forward(self, x_bchw: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        fused = self.proj_in(x_bchw)
        first, rest = torch.split(fused, [self.dims[0], sum(self.dims)], dim=1)
        gates = torch.split(self.dwconv(rest) * (1 / 3), self.dims, dim=1)
        x = first * gates[0]
        for index, widen in enumerate(self.pws):
            x = widen(x) * gates[index + 1]
        projected: Tensor = self.proj_out(x)
        return projected


class LiteralBlock(nn.Module):
    """gnConv on channels first, then a feed-forward layer on channels last, with the permutations between them."""

    def __init__(self, channels: int, *, order: int, grid: tuple[int, int] | None, drop_rate: float) -> None:
        super().__init__()
        self.norm1 = ChannelsFirstNorm(channels)
        self.gnconv = LiteralGnConv(channels, order=order, grid=grid)
        self.norm2 = nn.LayerNorm(channels, eps=EPS)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma1 = nn.Parameter(1e-6 * torch.ones(channels))
        self.gamma2 = nn.Parameter(1e-6 * torch.ones(channels))
        self.drop_rate = drop_rate

    def forward(self, x_bchw: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        gamma1 = self.gamma1.view(-1, 1, 1)
        x = x_bchw + self._drop(gamma1 * self.gnconv(self.norm1(x_bchw)))
        shortcut = x
        y = self.norm2(x.permute(0, 2, 3, 1))
        y = self.gamma2 * self.pwconv2(functional.gelu(self.pwconv1(y)))
        return shortcut + self._drop(y.permute(0, 3, 1, 2))

    def _drop(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_rate == 0:
            return branch
        keep = 1 - self.drop_rate
        mask = branch.new_empty((branch.shape[0], 1, 1, 1)).bernoulli_(keep)
        return branch * mask.div_(keep)


class LiteralHorNet(nn.Module):
    """The classification network; `filter_stages` (0-based) use global filters made for `img_size`."""

    def __init__(
        self,
        *,
        width: int,
        depths: Sequence[int],
        orders: Sequence[int] = (2, 3, 4, 5),
        filter_stages: Sequence[int] = (),
        img_size: int = 224,
        num_classes: int = 1000,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        channels = [width * 2**stage for stage in range(4)]
        self.downsample_layers = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(3, width, 4, stride=4), ChannelsFirstNorm(width))]
        )
        for narrow, wide in pairwise(channels):
            self.downsample_layers.append(
                nn.Sequential(ChannelsFirstNorm(narrow), nn.Conv2d(narrow, wide, 2, stride=2))
            )
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        self.stages = nn.ModuleList()
        for stage, depth in enumerate(depths):
            side = img_size // (4 * 2**stage)
            grid = (side, side // 2 + 1) if stage in filter_stages else None
            build = partial(LiteralBlock, channels[stage], order=orders[stage], grid=grid)
            self.stages.append(nn.Sequential(*(build(drop_rate=next(rates)) for _ in range(depth))))
        self.norm = nn.LayerNorm(channels[-1], eps=EPS)
        self.head = nn.Linear(channels[-1], num_classes)

    def forward(self, images_bchw: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, num_classes)."""
        x = images_bchw
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        logits: Tensor = self.head(self.norm(x.mean([-2, -1])))
        return logits

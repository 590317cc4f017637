"""gnConv, the recursive gated convolution (HorNet, arXiv 2207.14284, section 3.1)."""

from itertools import pairwise

from torch import Tensor, nn

from hornet.model.convolution import DepthwiseConv, PointwiseConv, build_depthwise_conv
from hornet.model.global_filter import FilterGrid, GlobalLocalFilter
from hornet.model.kernels import require_kernels
from hornet.model.sizes import Kernels

GNCONV_SCALE = 1 / 3
"""The s of every classification model in the original hornet.py."""


def split_channels(channels: int, order: int) -> list[int]:
    """Channels of the `order` gates, narrowest first: C / 2**(order - 1), ..., C / 2, C."""
    if order < 1:
        raise ValueError(f"order is {order}, but gnConv needs at least one gate: give 1 or more.")
    if channels % 2 ** (order - 1):
        raise ValueError(
            f"channels is {channels}, but a gnConv of order {order} halves them {order - 1} times: "
            f"give a multiple of {2 ** (order - 1)}."
        )
    return [channels // 2**i for i in reversed(range(order))]


class GnConv(nn.Module):
    """Spatial interactions of order n by n gates in a row, each twice as wide as the one before.

    With p0, q = split(proj_in(x)), f = the depthwise convolution and s = `scale`:
        p1 = p0 * s f0(q0);  p(k+1) = pws(k)(p(k)) * s fk(qk);  output = proj_out(pn).
    `filter_grid` None: f is a 7x7 depthwise convolution; else a GlobalLocalFilter of that grid. `is_fused` computes
    f, s and the first gate in one kernel (`use_kernels`). `in_channels` of x are `channels` where nothing is said.
    """

    def __init__(
        self,
        channels: int,
        *,
        order: int,
        scale: float,
        filter_grid: FilterGrid | None = None,
        in_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = channels if in_channels is None else in_channels
        self.gate_channels = split_channels(channels, order)
        self.scale = scale
        self.is_fused = False
        spatial_channels = sum(self.gate_channels)
        self.proj_in = PointwiseConv(self.in_channels, 2 * channels)
        self.dwconv: nn.Module = (
            build_depthwise_conv(spatial_channels, kernel_size=7, bias=True)
            if filter_grid is None
            else GlobalLocalFilter(spatial_channels, grid=filter_grid)
        )
        self.proj_out = PointwiseConv(channels, channels)
        self.pws = nn.ModuleList(PointwiseConv(narrow, wide) for narrow, wide in pairwise(self.gate_channels))

    def forward(self, x_bhwc: Tensor) -> Tensor:
        """(B, H, W, in_channels) -> (B, H, W, channels)."""
        y, narrowest = self.proj_in(x_bhwc), self.gate_channels[0]
        # By index: torch.fx cannot unpack what has no number known to it.
        if self.is_fused:
            gates = self.dwconv(y, num_gate_channels=narrowest, scale=self.scale).split(self.gate_channels, dim=-1)
            x = gates[0]
        else:
            first, spatial = y.split([narrowest, sum(self.gate_channels)], dim=-1)
            gates = (self.dwconv(spatial) * self.scale).split(self.gate_channels, dim=-1)
            x = first * gates[0]
        for index, widen in enumerate(self.pws, start=1):
            x = widen(x) * gates[index]
        out: Tensor = self.proj_out(x)
        return out


def use_kernels(network: nn.Module, kernels: Kernels) -> None:
    """Choose plain operators, or our own "fused" kernels where there is one; weights and names stay as they are.

    Raises UserError where "fused" cannot run.
    """
    if kernels == "fused":
        require_kernels()
    for module in network.modules():
        if isinstance(module, GnConv) and isinstance(module.dwconv, DepthwiseConv):
            module.is_fused = kernels == "fused"


def initialize_by_fan_in(gnconv: GnConv) -> None:
    """Draw weights that keep the size of what they multiply: normal with variance 1 / inputs, biases 0.

    For a gnConv whose output is normed. HorNet's own 0.02 suits its blocks, which add the output as it is: a gate takes
    away two more digits, and what is left is nothing beside the epsilon of a norm (docs/log.md).
    """
    for module in gnconv.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm | GlobalLocalFilter):
            module.reset_parameters()

"""Blocks of gnConv and a feed-forward layer: HorNet's, and one in the form of ConvNeXt's for comparisons."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from hornet.model.global_filter import NORM_EPS, FilterGrid
from hornet.model.gnconv import GNCONV_SCALE, GnConv, initialize_by_fan_in

FEED_FORWARD_RATIO = 4


@torch.fx.wrap  # a leaf there: torch.fx knows no numbers of axes
def sample_drop_path(x: Tensor, rate: float) -> Tensor:
    """Return a factor for each sample of (B, ...): 0 with probability `rate`, else 1 / (1 - rate)."""
    keep = 1.0 - rate
    # Drawn in float32: bfloat16 has too few values between 0 and 1 for a fair draw.
    draw = torch.rand((x.shape[0],) + (1,) * (x.dim() - 1), device=x.device, dtype=torch.float32)
    return (draw < keep) / keep


class ResidualBlock(nn.Module):
    """Whose branches are scaled per channel, and dropped as a whole.

    `drop_path_rate` is a plain number in [0, 1): set it whenever you like; it acts in training mode only.
    """

    drop_path_rate = 0.0

    def reset_parameters(self) -> None:
        """Set what the layers within do not set themselves; they have been initialised before."""
        raise NotImplementedError

    def _scale(self, branch: Tensor, gamma: Tensor) -> Tensor:
        if self.training and self.drop_path_rate > 0.0:
            # Both factors at once: the product of the small tensors first, then one pass over the branch.
            gamma = gamma * sample_drop_path(branch, self.drop_path_rate).to(gamma.dtype)
        return gamma * branch


class Block(ResidualBlock):
    """HorNet's: x + drop(gamma1 gnconv(norm1(x))), then x + drop(gamma2 pwconv2(gelu(pwconv1(norm2(x)))))."""

    def __init__(self, channels: int, *, order: int, filter_grid: FilterGrid | None, layer_scale_init: float) -> None:
        super().__init__()
        self.layer_scale_init = layer_scale_init
        self.norm1 = nn.LayerNorm(channels, eps=NORM_EPS)
        self.gnconv = GnConv(channels, order=order, scale=GNCONV_SCALE, filter_grid=filter_grid)
        self.norm2 = nn.LayerNorm(channels, eps=NORM_EPS)
        self.pwconv1 = nn.Linear(channels, FEED_FORWARD_RATIO * channels)
        self.pwconv2 = nn.Linear(FEED_FORWARD_RATIO * channels, channels)
        self.gamma1 = nn.Parameter(torch.empty(channels))
        self.gamma2 = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the layer scales to their initial value; the layers within initialise themselves."""
        nn.init.constant_(self.gamma1, self.layer_scale_init)
        nn.init.constant_(self.gamma2, self.layer_scale_init)

    def forward(self, x_bhwc: Tensor) -> Tensor:
        """(B, H, W, channels) -> the same shape."""
        x = x_bhwc
        x = x + self._scale(self.gnconv(self.norm1(x)), self.gamma1)
        return x + self._scale(self.pwconv2(functional.gelu(self.pwconv1(self.norm2(x)))), self.gamma2)


class OneBranchBlock(ResidualBlock):
    """ConvNeXt's, gnConv in the place of its convolution: x + drop(gamma pwconv2(gelu(pwconv1(norm(gnconv(x))))))."""

    def __init__(self, channels: int, *, order: int, filter_grid: FilterGrid | None, layer_scale_init: float) -> None:
        super().__init__()
        self.layer_scale_init = layer_scale_init
        self.gnconv = GnConv(channels, order=order, scale=GNCONV_SCALE, filter_grid=filter_grid)
        self.norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.pwconv1 = nn.Linear(channels, FEED_FORWARD_RATIO * channels)
        self.pwconv2 = nn.Linear(FEED_FORWARD_RATIO * channels, channels)
        self.gamma = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the layer scale to its initial value and draw gnConv so that there is something for the norm to see."""
        nn.init.constant_(self.gamma, self.layer_scale_init)
        initialize_by_fan_in(self.gnconv)

    def forward(self, x_bhwc: Tensor) -> Tensor:
        """(B, H, W, channels) -> the same shape."""
        branch = self.pwconv2(functional.gelu(self.pwconv1(self.norm(self.gnconv(x_bhwc)))))
        return x_bhwc + self._scale(branch, self.gamma)

"""Feature pyramids for detectors: FPN (arXiv 1612.03144), and HorFPN, whose output convolutions are gnConvs.

Source: HorNet (arXiv 2207.14284), and the original's object_detection/necks/gn_fpn.py (raoyongming/HorNet at ac9e210).
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from hornet.dense.config import Pyramid
from hornet.dense.layers import HorFpnConv, PlainConv
from hornet.errors import UserError


class FeaturePyramid(nn.Module):
    """Maps of falling size -> as many maps of `out_channels` each, and one more of half the smallest's size.

    Each map goes through a 1x1 convolution, takes the sum with the next smaller one's (doubled to its size, nearest),
    and goes through what `kind` says. For any list of maps, whatever backbone gives them.
    """

    def __init__(self, in_channels: Sequence[int], *, out_channels: int = 256, kind: Pyramid = "fpn") -> None:
        """Raise UserError if there is no map, or HorFPN's gates do not divide `out_channels`."""
        super().__init__()
        if not in_channels:
            raise UserError("in_channels: is empty; give the channels of each map that the backbone returns")
        self.out_channels = out_channels
        self.lateral_convs = nn.ModuleList(PlainConv(count, out_channels, kernel_size=1) for count in in_channels)
        self.fpn_convs = nn.ModuleList(
            PlainConv(out_channels, out_channels, kernel_size=3)
            if kind == "fpn"
            else HorFpnConv(out_channels, out_channels, is_global=kind == "horfpn_gf")
            for _ in in_channels
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return a map (B, out_channels, H, W) for each (B, C, H, W), largest first, and the last at half its size."""
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, maps, strict=True)]
        for index in range(len(laterals) - 1, 0, -1):
            size = laterals[index - 1].shape[2:]
            laterals[index - 1] = laterals[index - 1] + functional.interpolate(laterals[index], size=size)
        outputs = [conv(x) for conv, x in zip(self.fpn_convs, laterals, strict=True)]
        return [*outputs, functional.max_pool2d(outputs[-1], kernel_size=1, stride=2)]

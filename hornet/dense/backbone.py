"""HorNet as the backbone of segmenters and detectors: four maps of features, each normed.

Source: the original's semantic_segmentation/models/hornet.py and its twin for detection (raoyongming/HorNet at
ac9e210), whose names the state dict keeps.
"""

from typing import Any

import timm
from torch import Tensor, nn

from hornet.errors import UserError
from hornet.model.convolution import ChannelsLast
from hornet.model.global_filter import NORM_EPS
from hornet.model.hornet import HorNet, ImageSize, lay_out

STEM_BIAS = 0.1
"""Largest of a fresh stem's biases: about as large as what its convolution makes of a normalised image."""


class MapNorm(nn.LayerNorm):
    """LayerNorm over the channels of maps (B, C, H, W)."""

    def forward(self, x_bchw: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return super().forward(x_bchw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class DenseBackbone(nn.Module):
    """The stages of a HorNet and a LayerNorm behind each: images (B, 3, H, W) -> maps of strides 4, 8, 16 and 32.

    The classifier's own norm and head are not part of it. Global filters take images of any size; `img_size` is the
    one whose grid they are kept on (the original's segmenters keep them for 384 pixels).
    """

    def __init__(self, name: str, *, img_size: ImageSize = 224, drop_path_rate: float = 0.0, **arguments: Any) -> None:
        """Raise UserError if `name` is no HorNet of four stages; `arguments` are its constructor's."""
        super().__init__()
        sizes: dict[str, Any] = {"img_size": img_size, "drop_path_rate": drop_path_rate}
        is_ours = name in timm.list_models("hornet_*")
        network = timm.create_model(name, num_classes=0, **sizes, **arguments) if is_ours else None
        if not isinstance(network, HorNet) or len(network.stages) != 4:
            raise UserError(
                f"backbone: is {name!r}, but must be a HorNet of four stages; timm.list_models('hornet_*') names them"
            )
        self.channels = tuple(_count_channels(stage) for stage in network.stages)
        """Channels of each of the four maps, the finest first."""
        self.stem_stride = network.stem_stride
        self.downsample_layers = network.downsample_layers
        self.in_channels = self._get_stem().in_channels
        self.stages = network.stages
        for index, channels in enumerate(self.channels):
            self.add_module(f"norm{index}", MapNorm(channels, eps=NORM_EPS))
        self._keep_off_zero()

    def _keep_off_zero(self) -> None:
        """Draw the stem's bias, 0 in a fresh classifier, so that what images are filled up with is no 0 behind it.

        A norm's gradient at 0 is 1 / sqrt(eps), a thousand: over all norms of a fresh network it left float32's range.
        Weights that are loaded bring a bias of their own.
        """
        stem = self._get_stem()
        assert stem.bias is not None
        nn.init.uniform_(stem.bias, -STEM_BIAS, STEM_BIAS)

    def _get_stem(self) -> nn.Conv2d:
        stem = self.downsample_layers[0][0]  # type: ignore[index]
        assert isinstance(stem, nn.Conv2d)
        return stem

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> four maps (B, channels, H / stride, W / stride); borders that fill no patch are dropped."""
        x = lay_out(images, num_stages=len(self.stages), stem_stride=self.stem_stride)
        maps = []
        for index, (downsampling, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x = stage(downsampling(x))
            maps.append(self.get_submodule(f"norm{index}")(x))
        return maps

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        for stage in self.stages:
            assert isinstance(stage, ChannelsLast)
            stage.grad_checkpointing = enable


def _count_channels(stage: nn.Module) -> int:
    norm = next(module for module in stage.modules() if isinstance(module, nn.LayerNorm))
    return int(norm.normalized_shape[0])

"""UPerNet (arXiv 1807.10221) on HorNet, with HorFPN's fusion where asked: logits for every pixel.

Source: the original's semantic_segmentation/configs and decode_heads/gn_uper_head.py (raoyongming/HorNet at ac9e210);
modules have OpenMMLab's names, so that its checkpoints load.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from hornet.dense.backbone import DenseBackbone
from hornet.dense.config import Pyramid
from hornet.dense.layers import ConvNormRelu, HorFpnConvNormRelu

POOL_SIZES = (1, 2, 3, 6)
"""Positions a side of the pooled maps of the last stage."""
DROPOUT = 0.1
AUXILIARY_CHANNELS = 256
AUXILIARY_MAP = 2
"""The map of stride 16."""
CLASSIFIER_STD = 0.01


class UPerHead(nn.Module):
    """Four maps -> logits at the size of the first: pooled context on the last map, a pyramid, and their fusion.

    In a HorFPN, the fusion's 3x3 convolution alone is a gnConv.
    """

    def __init__(
        self, in_channels: Sequence[int], *, channels: int = 512, num_classes: int, kind: Pyramid = "fpn"
    ) -> None:
        super().__init__()
        *narrower, last = in_channels
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), ConvNormRelu(last, channels, kernel_size=1))
            for size in POOL_SIZES
        )
        self.bottleneck = ConvNormRelu(last + len(POOL_SIZES) * channels, channels, kernel_size=3)
        self.lateral_convs = nn.ModuleList(ConvNormRelu(count, channels, kernel_size=1) for count in narrower)
        self.fpn_convs = nn.ModuleList(ConvNormRelu(channels, channels, kernel_size=3) for _ in narrower)
        self.fpn_bottleneck = (
            ConvNormRelu(len(in_channels) * channels, channels, kernel_size=3)
            if kind == "fpn"
            else HorFpnConvNormRelu(len(in_channels) * channels, channels, is_global=kind == "horfpn_gf")
        )
        self.dropout = nn.Dropout2d(DROPOUT)
        self.conv_seg = _build_classifier(channels, num_classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return logits (B, num_classes, H, W) of the first map's size for maps (B, C, H, W), largest first."""
        last = maps[-1]
        context = [_resize(pooled(last), last.shape[2:]) for pooled in self.psp_modules]
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, maps[:-1], strict=True)]
        laterals.append(self.bottleneck(torch.cat([last, *context], dim=1)))
        for index in range(len(laterals) - 1, 0, -1):
            laterals[index - 1] = laterals[index - 1] + _resize(laterals[index], laterals[index - 1].shape[2:])
        outputs = [conv(x) for conv, x in zip(self.fpn_convs, laterals[:-1], strict=True)]
        outputs.append(laterals[-1])
        size = outputs[0].shape[2:]
        fused = self.fpn_bottleneck(torch.cat([_resize(x, size) for x in outputs], dim=1))
        logits: Tensor = self.conv_seg(self.dropout(fused))
        return logits


class FcnHead(nn.Module):
    """One 3x3 convolution and a classifier on one map; helps the training of what is below it."""

    def __init__(self, in_channels: int, *, channels: int = AUXILIARY_CHANNELS, num_classes: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvNormRelu(in_channels, channels, kernel_size=3))
        self.dropout = nn.Dropout2d(DROPOUT)
        self.conv_seg = _build_classifier(channels, num_classes)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, num_classes, H, W)."""
        logits: Tensor = self.conv_seg(self.dropout(self.convs(x_bchw)))
        return logits


class UPerNet(nn.Module):
    """Backbone, UPerHead, and an FcnHead for training: images (B, 3, H, W) -> logits (B, num_classes, H, W).

    Under several ranks its batch norms want nn.SyncBatchNorm.convert_sync_batchnorm, as the original's are.
    """

    def __init__(
        self,
        backbone: DenseBackbone,
        *,
        num_classes: int,
        channels: int = 512,
        kind: Pyramid = "fpn",
        num_decay_layers: int = 12,
    ) -> None:
        """Make the heads; `num_decay_layers` is how many layers layer decay takes the backbone for."""
        super().__init__()
        self._num_decay_layers = num_decay_layers
        self.backbone = backbone
        self.decode_head = UPerHead(backbone.channels, channels=channels, num_classes=num_classes, kind=kind)
        self.auxiliary_head = FcnHead(backbone.channels[AUXILIARY_MAP], num_classes=num_classes)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> logits (B, num_classes, H, W); in training also the auxiliary head's."""
        maps = self.backbone(images)
        size = images.shape[2:]
        logits = _resize(self.decode_head(maps), size)
        if not self.training:
            return logits
        return logits, _resize(self.auxiliary_head(maps[AUXILIARY_MAP]), size)

    def count_decays(self, name: str) -> int:
        """Return how often layer decay applies to the learning rate of a parameter.

        Stage-wise as in the original (semantic_segmentation/mmcv_custom): the stem and all downsamplings most often,
        then stage 1 to 4; heads and the norms behind the stages not at all.
        """
        part, _, rest = name.removeprefix("backbone.").partition(".")
        if not name.startswith("backbone.") or part not in ("downsample_layers", "stages"):
            return 0
        depth = 0 if part == "downsample_layers" else int(rest.partition(".")[0]) + 1
        return self._num_decay_layers + 1 - depth


def _resize(x_bchw: Tensor, size: torch.Size) -> Tensor:
    return functional.interpolate(x_bchw, size=size, mode="bilinear", align_corners=False)


def _build_classifier(channels: int, num_classes: int) -> nn.Conv2d:
    classifier = nn.Conv2d(channels, num_classes, kernel_size=1)
    nn.init.normal_(classifier.weight, std=CLASSIFIER_STD)
    assert classifier.bias is not None
    nn.init.zeros_(classifier.bias)
    return classifier

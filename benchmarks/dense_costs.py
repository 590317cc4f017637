"""Parameters and FLOPs of segmenters and detectors on HorNet, beside the original's tables. No weights, no images.

FLOPs in the convention by which the original counts, that of mmcv 1.x's get_model_complexity_info: multiply-adds of
convolutions (with their biases) and linear layers (without), two an element for batch norms, one for ReLUs and pooled
positions. Fourier transforms and LayerNorms count nothing. Of a detector, 1,000 regions go through the box heads and
100 through the masks'; a segmenter's auxiliary head is for training alone.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hornet.dense.backbone import DenseBackbone
from hornet.dense.config import Pyramid
from hornet.dense.detectors import build_cascade_mask_rcnn, build_mask_rcnn, run_all_parts
from hornet.dense.pyramid import FeaturePyramid
from hornet.dense.uper_net import UPerNet

NUM_BOXES, NUM_MASKS = 1000, 100
COCO_CLASSES, ADE20K_CLASSES = 80, 150
COCO_SIZE = (800, 1280)
SEGMENTED_SIZE = {"tiny": (512, 2048), "small": (512, 2048), "base": (512, 2048), "large": (640, 2560)}
FILTERS_FOR = {"tiny": 224, "small": 224, "base": 224, "large": 384}
"""Pixels a side whose grids the detectors' filters have; the segmenters' have those of 384 in all sizes."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network of the original's tables (semantic_segmentation/README.md, object_detection/README.md)."""

    task: str
    size: str
    kind: str
    millions: int
    """Parameters, as printed."""
    giga: int
    """FLOPs, as printed."""


PUBLISHED = [
    Row(task=task, size=size, kind=kind, millions=millions, giga=giga)
    for task, size, kind, millions, giga in (
        ("UPerNet", "tiny", "7x7", 52, 926),
        ("UPerNet", "tiny", "gf", 55, 924),
        ("UPerNet", "small", "7x7", 81, 1030),
        ("UPerNet", "small", "gf", 85, 1027),
        ("UPerNet", "base", "7x7", 121, 1174),
        ("UPerNet", "base", "gf", 126, 1171),
        ("UPerNet", "large", "7x7", 232, 2473),
        ("UPerNet", "large", "gf", 239, 2465),
        ("Cascade Mask R-CNN", "tiny", "7x7", 80, 730),
        ("Cascade Mask R-CNN", "tiny", "gf", 80, 728),
        ("Cascade Mask R-CNN", "small", "7x7", 107, 830),
        ("Cascade Mask R-CNN", "small", "gf", 108, 827),
        ("Cascade Mask R-CNN", "base", "7x7", 144, 969),
        ("Cascade Mask R-CNN", "base", "gf", 146, 965),
        ("Cascade Mask R-CNN", "large", "7x7", 251, 1363),
        ("Cascade Mask R-CNN", "large", "gf", 259, 1358),
    )
]


def build(task: str, size: str, kind: str, *, pyramid: Pyramid = "fpn") -> nn.Module:
    """Build a network without memory."""
    with torch.device("meta"):
        filters_for = 384 if task == "UPerNet" else FILTERS_FOR[size]
        backbone = DenseBackbone(f"hornet_{size}_{kind}", img_size=filters_for)
        if task == "UPerNet":
            return UPerNet(backbone, num_classes=ADE20K_CLASSES, kind=pyramid).eval()
        neck = FeaturePyramid(backbone.channels, kind=pyramid)
        make = build_cascade_mask_rcnn if task == "Cascade Mask R-CNN" else build_mask_rcnn
        detector: nn.Module = make(backbone, neck, num_classes=COCO_CLASSES)
        return detector.eval()


def count(task: str, network: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    """Return parameters, and FLOPs of one image of that size (height, width)."""
    total = 0

    def add(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal total
        total += _count_layer(module, inputs[0], output)

    hooks = [module.register_forward_hook(add) for module in network.modules() if not list(module.children())]
    try:
        with torch.no_grad(), torch.device("meta"):
            (_run_segmenter if task == "UPerNet" else _run_detector)(network, size)
    finally:
        for hook in hooks:
            hook.remove()
    return sum(parameter.numel() for parameter in network.parameters()), total


def _count_layer(module: nn.Module, x: Tensor, output: Tensor) -> int:
    match module:
        case nn.ConvTranspose2d():
            return x.numel() * module.weight[0].numel() + output.numel()
        case nn.Conv2d():
            return output.numel() * (module.weight[0].numel() + (module.bias is not None))
        case nn.Linear():
            return output.numel() * module.in_features
        case nn.BatchNorm2d():
            return 2 * output.numel()
        case nn.ReLU():
            return output.numel()
        case nn.AdaptiveAvgPool2d():
            return x.numel()
    return 0


def _run_segmenter(network: nn.Module, size: tuple[int, int]) -> None:
    assert isinstance(network, UPerNet)
    network.decode_head(network.backbone(torch.empty(1, 3, *size)))


def _run_detector(network: Any, size: tuple[int, int]) -> None:
    run_all_parts(network, torch.empty(1, 3, *size), num_boxes=NUM_BOXES, num_masks=NUM_MASKS)


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| network | backbone | parameters, M (published) | GFLOPs (published) |\n|---|---|---|---|")
    for row in PUBLISHED:
        size = SEGMENTED_SIZE[row.size] if row.task == "UPerNet" else COCO_SIZE
        parameters, flops = count(row.task, build(row.task, row.size, row.kind), size)
        print(
            f"| {row.task} | hornet_{row.size}_{row.kind} | {parameters / 1e6:.3f} ({row.millions}) | "
            f"{flops / 1e9:.1f} ({row.giga}) |"
        )
    print("\n| HorFPN on hornet_small_7x7 | parameters, M | GFLOPs |\n|---|---|---|")
    for task, size in (("UPerNet", SEGMENTED_SIZE["small"]), ("Mask R-CNN", COCO_SIZE)):
        for pyramid in ("fpn", "horfpn_7x7", "horfpn_gf"):
            parameters, flops = count(task, build(task, "small", "7x7", pyramid=pyramid), size)
            print(f"| {task}, {pyramid} | {parameters / 1e6:.3f} | {flops / 1e9:.1f} |")


if __name__ == "__main__":
    main()

"""What of a network can be named: sizes as plain numbers, kernels; variants.py registers the sizes with timm."""

from dataclasses import dataclass
from typing import Any, Literal

Kernels = Literal["plain", "fused"]
Resize = Literal["bilinear", "spectral"]
"""How global filters are brought to the grid of another image size."""
BlockForm = Literal["hornet", "convnext"]

NUM_STAGES = 4
STEM_STRIDE = 4
MIN_IMAGE_SIZE = STEM_STRIDE * 2 ** (NUM_STAGES - 1)
"""Pixels a side that fill one position of the last stage."""
FILTER_STAGES = (2, 3)
NO_TORCHSCRIPT = (
    "TorchScript: is deprecated in PyTorch, and HorNet leaves it out; use torch.export, ONNX or torch.compile "
    "(docs/models.md)"
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """Width C of the first stage and blocks per stage."""

    width: int
    depths: tuple[int, int, int, int]


SIZES = {
    # Ours, for work on CPUs.
    "zepto": Size(width=8, depths=(2, 2, 6, 2)),
    "atto": Size(width=16, depths=(2, 2, 6, 2)),
    "femto": Size(width=24, depths=(2, 2, 6, 2)),
    "pico": Size(width=32, depths=(2, 2, 6, 2)),
    "nano": Size(width=48, depths=(2, 2, 8, 2)),
    # The paper's.
    "tiny": Size(width=64, depths=(2, 3, 18, 2)),
    "small": Size(width=96, depths=(2, 3, 18, 2)),
    "base": Size(width=128, depths=(2, 3, 18, 2)),
    "large": Size(width=192, depths=(2, 3, 18, 2)),
    # Ours, for ZeRO; the widths of ConvNeXt-XL and ConvNeXt V2-H.
    "xlarge": Size(width=256, depths=(2, 3, 18, 2)),
    "huge": Size(width=352, depths=(2, 3, 18, 2)),
}
SIZES_AT_384 = ("base", "large")
MATCHED_CONVNEXT_WIDTHS = {"zepto": 9, "atto": 19, "femto": 28, "pico": 38, "nano": 57}
"""Width of the first stage of the ConvNeXt that has the depths of a HorNet with global filters, and its parameters and
multiply-adds at once, at 64 pixels (peers.py)."""


def _list_variants() -> dict[str, dict[str, Any]]:
    """Variant name -> arguments of HorNet that make it."""
    variants: dict[str, dict[str, Any]] = {}
    for name, size in SIZES.items():
        shape = {"width": size.width, "depths": size.depths}
        variants[f"hornet_{name}_7x7"] = shape
        variants[f"hornet_{name}_gf"] = {**shape, "filter_stages": FILTER_STAGES}
        if name in SIZES_AT_384:
            variants[f"hornet_{name}_gf_img384"] = {**shape, "filter_stages": FILTER_STAGES, "img_size": 384}
    return variants


ISOTROPIC_WIDTH, ISOTROPIC_STEM_STRIDE, ISOTROPIC_ORDER = 384, 16, 4
"""DeiT-S and ConvNeXt-S (isotropic) alike have 384 channels and patches of 16 pixels; the order is ours, that of
HorNet's third stage, whose maps are as large."""
ISOTROPIC_SHAPES: dict[str, tuple[int, BlockForm]] = {"deit_small": (12, "hornet"), "convnext_small": (18, "convnext")}
"""Blocks, and their form: a branch for the gnConv and one for the feed-forward layer, or one for both."""


def _list_isotropic_variants() -> dict[str, dict[str, Any]]:
    """Variant name -> arguments of HorNet that make it: one stage, its filters in all blocks or in none."""
    variants: dict[str, dict[str, Any]] = {}
    for name, (depth, form) in ISOTROPIC_SHAPES.items():
        shape = {
            "width": ISOTROPIC_WIDTH,
            "depths": (depth,),
            "orders": (ISOTROPIC_ORDER,),
            "stem_stride": ISOTROPIC_STEM_STRIDE,
            "block_form": form,
        }
        variants[f"hornet_isotropic_{name}_7x7"] = shape
        variants[f"hornet_isotropic_{name}_gf"] = {**shape, "filter_stages": (0,)}
    return variants


ISOTROPIC_VARIANTS = _list_isotropic_variants()
VARIANTS = {**_list_variants(), **ISOTROPIC_VARIANTS}

NATIVE_SIZE = 224
"""Pixels that a network is shaped for whose name says nothing else."""


def describe_preprocessing(image_size: int, *, stride: int = MIN_IMAGE_SIZE) -> dict[str, Any]:
    """Timm's pretrained_cfg: the original's evaluation, a centre crop at 224 and a squash to 384 (its datasets.py)."""
    evaluation = (
        {"crop_pct": 0.875, "crop_mode": "center"} if image_size < 384 else {"crop_pct": 1.0, "crop_mode": "squash"}
    )
    return {
        "input_size": (3, image_size, image_size),
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "num_classes": 1000,
        "pool_size": (image_size // stride, image_size // stride),
        "first_conv": "downsample_layers.0.0",
        "classifier": "head",
        "license": "mit",
        "origin_url": "https://github.com/raoyongming/HorNet",
        "paper_ids": "arXiv:2207.14284",
        **evaluation,
    }

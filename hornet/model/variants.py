"""The named HorNets, registered with timm: `timm.create_model("hornet_large_gf", num_classes=10459)`.

`hornet_SIZE_7x7` uses 7x7 depthwise convolutions everywhere, `hornet_SIZE_gf` global filters in the last two stages,
shaped for 224 pixels; `hornet_{base,large}_gf_img384` are shaped for 384 pixels, as the original's.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from timm.layers import is_scriptable
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

import hornet
from hornet.errors import UserError
from hornet.model.sizes import NO_TORCHSCRIPT, VARIANTS


def _describe_preprocessing(image_size: int) -> dict[str, Any]:
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
        "pool_size": (image_size // 32, image_size // 32),
        "first_conv": "downsample_layers.0.0",
        "classifier": "head",
        "license": "mit",
        "origin_url": "https://github.com/raoyongming/HorNet",
        "paper_ids": "arXiv:2207.14284",
        **evaluation,
    }


hornet.default_cfgs.update(
    generate_default_cfgs(
        {name: _describe_preprocessing(arguments.get("img_size", 224)) for name, arguments in VARIANTS.items()}
    )
)

FIXED = {"act_layer": ("gelu", "activation"), "output_stride": (32, "stride")}
"""Arguments that other networks of timm's have: their only value here, and what it is."""


def _take_out_fixed(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments without those that say what is so anyway, or raise UserError for what cannot be had."""
    if is_scriptable():  # type: ignore[no-untyped-call]
        raise UserError(f"scriptable=True: {NO_TORCHSCRIPT}")
    if arguments.get("feature_cls") in ("list", "dict"):
        raise UserError(
            f"feature_cls: {arguments['feature_cls']!r} takes networks apart whose stages follow one another; for "
            "HorNet leave it out, or use 'hook' or 'fx'"
        )
    for name, (value, kind) in FIXED.items():
        if arguments.get(name, value) != value:
            raise UserError(f"{name}: HorNet's {kind} is {value}, and cannot be {arguments[name]}")
    return {name: value for name, value in arguments.items() if name not in FIXED}


def _build_entry_point(name: str, arguments: dict[str, Any]) -> Callable[..., nn.Module]:
    def build(
        pretrained: bool = False,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> nn.Module:
        from hornet.model.hornet import HorNet  # not above: it may be half loaded, having asked for timm

        with nullcontext() if device is None else torch.device(device):
            model: nn.Module = build_model_with_cfg(
                HorNet,
                name,
                pretrained,
                # The getter extracts features with HorNet.forward_intermediates, and computes nothing beyond them.
                feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
                **{**arguments, **_take_out_fixed(kwargs)},
            )
        # Afterwards: drawn in float32, then rounded.
        return model.to(dtype=dtype)

    build.__name__ = build.__qualname__ = name
    build.__module__ = hornet.__name__  # timm takes it for the family: `timm.list_models(module="hornet")`
    build.__doc__ = f"Build {name}; arguments of HorNet may be overridden."
    return build


for _name, _arguments in VARIANTS.items():
    # As attributes of that module, since timm adds the names to its __all__.
    setattr(hornet, _name, register_model(_build_entry_point(_name, _arguments)))

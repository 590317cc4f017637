"""The named HorNets, registered with timm: `timm.create_model("hornet_large_gf", num_classes=10459)`.

`hornet_SIZE_7x7` uses 7x7 depthwise convolutions everywhere, `hornet_SIZE_gf` global filters in the last two stages,
shaped for 224 pixels; `hornet_{base,large}_gf_img384` are shaped for 384 pixels, as the original's.
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from timm.layers import is_scriptable
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from hornet.errors import UserError
from hornet.model.sizes import NATIVE_SIZE, NO_TORCHSCRIPT, VARIANTS, describe_preprocessing

_FAMILY = sys.modules["hornet"]
"""Whose attributes the entry points become: timm lists models by the last part of their module's name, and looks there
for their preprocessing."""
_FAMILY.default_cfgs = generate_default_cfgs(  # type: ignore[attr-defined]
    {name: describe_preprocessing(arguments.get("img_size", NATIVE_SIZE)) for name, arguments in VARIANTS.items()}
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
    build.__module__ = _FAMILY.__name__
    build.__doc__ = f"Build {name}; arguments of HorNet may be overridden."
    return build


for _name, _arguments in VARIANTS.items():
    # As attributes of that module, since timm adds the names to its __all__.
    setattr(_FAMILY, _name, register_model(_build_entry_point(_name, _arguments)))

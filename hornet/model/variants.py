"""The named HorNets, registered with timm: `timm.create_model("hornet_large_gf", num_classes=10459)`.

`hornet_SIZE_7x7` uses 7x7 depthwise convolutions everywhere, `hornet_SIZE_gf` global filters in the last two stages,
shaped for 224 pixels; `hornet_{base,large}_gf_img384` are shaped for 384 pixels, as the original's.
`hornet_isotropic_{deit,convnext}_small_{7x7,gf}` have one stage of the shape of those networks.
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from timm.layers import is_scriptable
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

import hornet.model.peers  # registers names of its own
import hornet.model.plug_in_variants  # noqa: F401  # as that
from hornet.errors import UserError
from hornet.model.sizes import NATIVE_SIZE, NO_TORCHSCRIPT, STEM_STRIDE, VARIANTS, describe_preprocessing


def _compute_stride(arguments: dict[str, Any]) -> int:
    """Pixels a side that fill one position of the last stage."""
    stride: int = arguments.get("stem_stride", STEM_STRIDE) * 2 ** (len(arguments["depths"]) - 1)
    return stride


_FAMILY = sys.modules["hornet"]
"""Whose attributes the entry points become: timm lists models by the last part of their module's name, and looks there
for their preprocessing."""
_FAMILY.default_cfgs = generate_default_cfgs(  # type: ignore[attr-defined]
    {
        name: describe_preprocessing(arguments.get("img_size", NATIVE_SIZE), stride=_compute_stride(arguments))
        for name, arguments in VARIANTS.items()
    }
)


def _take_out_fixed(arguments: dict[str, Any], *, stride: int) -> dict[str, Any]:
    """Return the arguments without those that say what is so anyway, or raise UserError for what cannot be had."""
    if is_scriptable():  # type: ignore[no-untyped-call]
        raise UserError(f"scriptable=True: {NO_TORCHSCRIPT}")
    if arguments.get("feature_cls") in ("list", "dict"):
        raise UserError(
            f"feature_cls: {arguments['feature_cls']!r} takes networks apart whose stages follow one another; for "
            "HorNet leave it out, or use 'hook' or 'fx'"
        )
    # Arguments that other networks of timm's have: their only value here, what it is, and what to do.
    undilated = f": no dilated form of it has been trained; choose a decoder that takes maps of stride {stride}"
    fixed = {"act_layer": ("gelu", "activation", ""), "output_stride": (stride, "stride", undilated)}
    for name, (value, kind, advice) in fixed.items():
        if arguments.get(name, value) != value:
            raise UserError(f"{name}: HorNet's {kind} is {value}, and cannot be {arguments[name]}{advice}")
    return {name: value for name, value in arguments.items() if name not in fixed}


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
                feature_cfg={"out_indices": tuple(range(len(arguments["depths"]))), "feature_cls": "getter"},
                **{**arguments, **_take_out_fixed(kwargs, stride=_compute_stride(arguments))},
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

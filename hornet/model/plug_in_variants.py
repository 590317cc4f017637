"""Networks of others with gnConv, registered with timm: `timm.create_model("convnext_tiny_gnconv_gf")`.

`_7x7` has 7x7 depthwise convolutions in every gnConv, `_gf` global filters in the last two stages, as HorNets have.
"""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from hornet.model.sizes import FILTER_STAGES, NATIVE_SIZE, describe_preprocessing

CONVNEXT_TINY = {"depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768)}
SWIN_TINY = {"patch_size": 4, "window_size": 7, "embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)}


def _describe(first_conv: str) -> dict[str, Any]:
    described = describe_preprocessing(NATIVE_SIZE)
    del described["origin_url"]  # there is no code of the authors' for these
    return {**described, "first_conv": first_conv, "classifier": "head.fc"}


default_cfgs = generate_default_cfgs(
    {
        "convnext_tiny_gnconv_7x7": _describe("stem.0"),
        "convnext_tiny_gnconv_gf": _describe("stem.0"),
        "swin_tiny_gnconv_7x7": _describe("patch_embed.proj"),
        "swin_tiny_gnconv_gf": _describe("patch_embed.proj"),
    }
)


def _build(name: str, pretrained: bool, **arguments: Any) -> nn.Module:
    from hornet.model import hosts  # not above: it may be half loaded, having asked for timm

    kind = hosts.GnConvNeXt if name.startswith("convnext") else hosts.GnConvSwin
    model: nn.Module = build_model_with_cfg(
        kind, name, pretrained, feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"}, **arguments
    )
    return model


@register_model
def convnext_tiny_gnconv_7x7(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Build ConvNeXt-T with gnConv of 7x7 convolutions; arguments of GnConvNeXt may be overridden."""
    return _build("convnext_tiny_gnconv_7x7", pretrained, **{**CONVNEXT_TINY, **arguments})


@register_model
def convnext_tiny_gnconv_gf(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Build ConvNeXt-T with gnConv, global filters in stages 3 and 4; arguments of GnConvNeXt may be overridden."""
    return _build(
        "convnext_tiny_gnconv_gf", pretrained, **{**CONVNEXT_TINY, "filter_stages": FILTER_STAGES, **arguments}
    )


@register_model
def swin_tiny_gnconv_7x7(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Build Swin-T with gnConv of 7x7 convolutions; arguments of GnConvSwin may be overridden."""
    return _build("swin_tiny_gnconv_7x7", pretrained, **{**SWIN_TINY, **arguments})


@register_model
def swin_tiny_gnconv_gf(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Build Swin-T with gnConv, global filters in stages 3 and 4; arguments of GnConvSwin may be overridden."""
    return _build("swin_tiny_gnconv_gf", pretrained, **{**SWIN_TINY, "filter_stages": FILTER_STAGES, **arguments})

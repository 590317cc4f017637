"""ConvNeXts as large as our small HorNets, registered with timm: `timm.create_model("convnext_matched_atto")`.

timm's own `convnext_atto` has four times the parameters of `hornet_atto_gf`, so nothing follows from comparing the two.
These have a HorNet's depths and about 1.19 times its width, which meets its parameters and, at 64 pixels, its
multiply-adds at once (tests/unit/model/test_peers.py says how nearly).
"""

from collections.abc import Callable
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from hornet.model.sizes import MATCHED_CONVNEXT_WIDTHS, NATIVE_SIZE, SIZES, describe_preprocessing


def _describe() -> dict[str, Any]:
    described = describe_preprocessing(NATIVE_SIZE)
    for of_hornet in ("origin_url", "paper_ids"):
        del described[of_hornet]
    return {**described, "first_conv": "stem.0", "classifier": "head.fc"}


default_cfgs = generate_default_cfgs({f"convnext_matched_{size}": _describe() for size in MATCHED_CONVNEXT_WIDTHS})


def _build_entry_point(size: str) -> Callable[..., nn.Module]:
    name, width = f"convnext_matched_{size}", MATCHED_CONVNEXT_WIDTHS[size]
    shape = {"depths": SIZES[size].depths, "dims": tuple(width * 2**stage for stage in range(4))}

    def build(pretrained: bool = False, **arguments: Any) -> nn.Module:
        from timm.models.convnext import ConvNeXt  # not above: it may be half loaded, having asked for timm

        model: nn.Module = build_model_with_cfg(
            ConvNeXt,
            name,
            pretrained,
            feature_cfg={"out_indices": (0, 1, 2, 3), "flatten_sequential": True},
            **{**shape, **arguments},
        )
        return model

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"Build a ConvNeXt as large as hornet_{size}_gf; arguments of ConvNeXt may be overridden."
    return build


for _size in MATCHED_CONVNEXT_WIDTHS:
    globals()[f"convnext_matched_{_size}"] = register_model(_build_entry_point(_size))

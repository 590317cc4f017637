"""ConvNeXt and Swin with gnConv, as networks that a run can build by name (plug_in_variants.py)."""

from collections.abc import Sequence
from typing import Any

from timm.models import convnext, swin_transformer
from timm.models.convnext import ConvNeXt
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from hornet.model.gnconv import use_kernels
from hornet.model.plug_in import ORDERS, replace_mixers
from hornet.model.sizes import Kernels


class GnConvNeXt(ConvNeXt):
    """ConvNeXt with gnConv in the place of its depthwise convolutions; further arguments are ConvNeXt's.

    `filter_stages` (0-based) use global filters, shaped for `img_size`; any other input size works too.
    """

    def __init__(
        self,
        *,
        orders: int | Sequence[int | None] = ORDERS,
        filter_stages: Sequence[int] = (),
        img_size: int | tuple[int, int] = 224,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        replace_mixers(self, orders=orders, filter_stages=filter_stages, image_size=img_size)

    def no_weight_decay(self) -> set[str]:
        """Parameters of two and more axes that must not decay: none, as in HorNet and ConvNeXt."""
        return set()

    def use_kernels(self, kernels: Kernels) -> None:
        """As gnconv.use_kernels."""
        use_kernels(self, kernels)


class GnConvSwin(SwinTransformer):
    """Swin with gnConv in the place of its window attention; further arguments are SwinTransformer's.

    `filter_stages` (0-based) use global filters, shaped for `img_size`; any other input size of whole patches works
    too, since nothing is cut into windows.
    """

    def __init__(
        self,
        *,
        orders: int | Sequence[int | None] = ORDERS,
        filter_stages: Sequence[int] = (),
        **arguments: Any,
    ) -> None:
        super().__init__(**{"strict_img_size": False, **arguments})
        replace_mixers(self, orders=orders, filter_stages=filter_stages)

    def use_kernels(self, kernels: Kernels) -> None:
        """As gnconv.use_kernels."""
        use_kernels(self, kernels)


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """As timm calls it, for the stages that kept their own mixers: fit weights of the host to another image size."""
    host = convnext if isinstance(model, ConvNeXt) else swin_transformer
    fitted: dict[str, Tensor] = host.checkpoint_filter_fn(state_dict, model)
    return fitted

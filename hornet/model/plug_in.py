"""gnConv in other networks: a layer for maps (B, C, H, W), and what puts it into timm's ConvNeXt and Swin.

Source of the layer: HorNet (arXiv 2207.14284), section 3.1. docs/plug_in.md shows how it is used.
Not here: the two as classes of their own (hosts.py), names that timm knows (plug_in_variants.py).
"""

import operator
from collections.abc import Sequence
from typing import Any, cast

import torch
from timm.models.convnext import ConvNeXt, ConvNeXtBlock
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from torch import Tensor, nn

from hornet.errors import UserError
from hornet.model.global_filter import FilterGrid, GlobalLocalFilter, resize_filter
from hornet.model.gnconv import GNCONV_SCALE, GnConv, initialize_by_fan_in

ORDERS = (2, 3, 4, 5)
"""Of the four stages of every HorNet."""


@torch.fx.wrap  # a leaf there: torch.fx knows no sizes
def open_map(x_bchw: Tensor, channels: int) -> Tensor:
    """View a map (B, channels, H, W) as (B, H, W, channels), or raise UserError if it is none."""
    if x_bchw.dim() != 4 or x_bchw.shape[1] != channels:
        raise UserError(
            f"GnConv2d: takes maps (batch, {channels}, height, width), but got a tensor of {tuple(x_bchw.shape)}; "
            "tokens must be laid out as a map first (docs/plug_in.md)"
        )
    if torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting():
        # One graph per map size, as in hornet.py: Inductor (torch 2.13) fails on convolutions of symbolic sizes.
        operator.index(x_bchw.shape[2]), operator.index(x_bchw.shape[3])
    return x_bchw.permute(0, 2, 3, 1)


class GnConv2d(GnConv):
    """gnConv over maps: (B, channels, H, W) -> the same shape, for where a 3x3 or 7x7 convolution of stride 1 stands.

    `order` gates, `channels` a multiple of 2**(order - 1); `in_channels` is for a layer that changes their number.
    `scale` is the factor s of each gate, 1/3 as in HorNet.
    `filter_grid` None takes 7x7 depthwise convolutions within; (H, W // 2 + 1) takes global filters for maps of H x W
    (`channels` a multiple of 2**order then), which are resampled on the fly for maps of another size.

    The output has its channels last in memory (torch.channels_last), and an input that has too is not copied. Names and
    shapes of the state dict are those of a `gnconv` in HorNet. Weights are initialised as they should be before a norm;
    a network that initialises its convolutions itself may do so again.
    """

    def __init__(
        self,
        channels: int,
        *,
        order: int,
        scale: float = GNCONV_SCALE,
        filter_grid: FilterGrid | None = None,
        in_channels: int | None = None,
    ) -> None:
        if filter_grid is not None:
            _require_filter(channels, order, filter_grid)
        super().__init__(channels, order=order, scale=scale, filter_grid=filter_grid, in_channels=in_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        initialize_by_fan_in(self)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, H, W)."""
        return super().forward(open_map(x_bchw, self.in_channels)).permute(0, 3, 1, 2)


def _require_filter(channels: int, order: int, filter_grid: FilterGrid) -> None:
    is_pair = isinstance(filter_grid, Sequence) and len(filter_grid) == 2
    if not is_pair or not all(isinstance(length, int) and length >= 1 for length in filter_grid):
        raise UserError(
            f"filter_grid: is {filter_grid!r}, but must be two numbers of 1 or more, (H, W // 2 + 1) for maps of H x W"
        )
    # The gates have C (2 - 2**(1 - order)) channels in all, of which a filter takes half.
    if order >= 1 and channels % 2 ** (order - 1) == 0 and channels % 2**order:
        raise UserError(
            f"channels: is {channels}, but a gnConv of order {order} with global filters halves them {order} times; "
            f"give a multiple of {2**order}, or another order"
        )


class GnConvSwinBlock(nn.Module):
    """A Swin block whose mixer sees the whole map: no windows, shifts or masks, and no bias table.

    Norms, feed-forward layer and stochastic depth are those of the block whose place it takes, under their names.
    """

    def __init__(self, block: SwinTransformerBlock, mixer: GnConv) -> None:
        super().__init__()
        self.norm1 = block.norm1
        self.attn = mixer
        self.drop_path1 = block.drop_path1
        self.norm2 = block.norm2
        self.mlp = block.mlp
        self.drop_path2 = block.drop_path2

    def forward(self, x_bhwc: Tensor) -> Tensor:
        """(B, H, W, C) -> the same shape."""
        x = x_bhwc + self.drop_path1(self.attn(self.norm1(x_bhwc)))
        out: Tensor = x + self.drop_path2(self.mlp(self.norm2(x)))
        return out

    def reset_parameters(self) -> None:
        """Draw the gnConv anew; timm's init_weights calls this after the layers'."""
        initialize_by_fan_in(self.attn)

    def set_input_size(self, feat_size: tuple[int, int], *_windows: Any, **_more: Any) -> None:
        """Put a global filter onto the grid of maps of `feat_size`; SwinTransformer.set_input_size calls this."""
        spatial = self.attn.dwconv
        if isinstance(spatial, GlobalLocalFilter):
            weight = spatial.complex_weight
            grid = (feat_size[0], feat_size[1] // 2 + 1)
            resized = resize_filter(weight.detach(), grid, how=spatial.resize).contiguous()
            spatial.complex_weight = nn.Parameter(resized, requires_grad=weight.requires_grad)


def replace_mixers(
    model: nn.Module,
    *,
    orders: int | Sequence[int | None] = ORDERS,
    filter_stages: Sequence[int] = (),
    image_size: int | tuple[int, int] | None = None,
    scale: float = GNCONV_SCALE,
) -> dict[str, nn.Module]:
    """Put gnConv where a timm ConvNeXt has its depthwise convolutions or a timm Swin its window attention, in place.

    `orders`: one for all stages or one for each; None leaves that stage as it is. `filter_stages` (0-based) use global
    filters, shaped for images of `image_size` pixels (a Swin knows its own); the others 7x7 convolutions. All other
    weights stay. Returns the modules that were taken out, by the names under which the new ones stand.

    Raises UserError, and changes nothing, for other networks and for sizes that do not fit.
    """
    stages = _list_stages(model)
    by_stage = _resolve_orders(orders, num_stages=len(stages))
    if not set(filter_stages) <= {index for index, order in enumerate(by_stage) if order is not None}:
        raise UserError(
            f"filter_stages: is {tuple(filter_stages)}, but must name stages that get a gnConv, of 0 to "
            f"{len(stages) - 1}"
        )
    made: dict[str, tuple[nn.Module, GnConv]] = {}
    for index, (stage, order) in enumerate(zip(stages, by_stage, strict=True)):
        if order is None:
            continue
        for name, block in stage.items():
            old = _find_mixer(name, block)
            grid = _compute_grid(model, block, index, image_size) if index in filter_stages else None
            made[name] = old, _build_mixer(name, old, order=order, scale=scale, filter_grid=grid)
    replaced = {}
    for name, (old, mixer) in made.items():
        block = model.get_submodule(name)
        if isinstance(block, ConvNeXtBlock):
            block.conv_dw = mixer
            replaced[f"{name}.conv_dw"] = old
        else:
            assert isinstance(block, SwinTransformerBlock)
            model.set_submodule(name, GnConvSwinBlock(block, mixer).train(block.training))
            replaced[f"{name}.attn"] = old
    return replaced


def _list_stages(model: nn.Module) -> list[dict[str, nn.Module]]:
    """Return the blocks of each stage by name."""
    if not isinstance(model, ConvNeXt | SwinTransformer):
        raise UserError(
            f"replace_mixers: knows what to replace in timm's ConvNeXt and SwinTransformer, but not in a "
            f"{type(model).__name__}; put a GnConv2d where its convolution or attention is (docs/plug_in.md)"
        )
    attribute = "stages" if isinstance(model, ConvNeXt) else "layers"
    return [
        {f"{attribute}.{index}.blocks.{number}": block for number, block in enumerate(stage.blocks)}
        for index, stage in enumerate(getattr(model, attribute))
    ]


def _resolve_orders(orders: int | Sequence[int | None], *, num_stages: int) -> list[int | None]:
    by_stage: list[int | None] = [orders] * num_stages if isinstance(orders, int) else [*orders]
    if len(by_stage) != num_stages:
        raise UserError(
            f"orders: has {len(by_stage)} entries, but the network has {num_stages} stages; give one for each"
        )
    if all(order is None for order in by_stage):
        raise UserError("orders: is None for every stage, which replaces nothing; give at least one a number")
    return by_stage


def _find_mixer(name: str, block: nn.Module) -> nn.Module:
    """Return what a gnConv shall take the place of, or raise UserError where it cannot."""
    if isinstance(block, SwinTransformerBlock):
        return block.attn
    mixer = block.conv_dw if isinstance(block, ConvNeXtBlock) else block.attn
    if not isinstance(mixer, nn.Conv2d):
        raise UserError(f"replace_mixers: {name} has a {type(mixer).__name__} already; give its stage the order None")
    if mixer.in_channels != mixer.out_channels or mixer.stride != (1, 1) or mixer.dilation != (1, 1):
        raise UserError(
            f"replace_mixers: the convolution of {name} changes its map or is dilated (stride {mixer.stride}, dilation "
            f"{mixer.dilation}), which a gnConv cannot; build the network with output_stride=32"
        )
    return mixer


def _compute_grid(
    model: nn.Module, block: nn.Module, stage: int, image_size: int | tuple[int, int] | None
) -> FilterGrid:
    """Grid of a global filter for the maps that `block` sees."""
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if isinstance(block, SwinTransformerBlock):
        own = cast(tuple[int, int], cast(SwinTransformer, model).patch_embed.img_size)
        if size is not None and tuple(size) != tuple(own):
            raise UserError(
                f"image_size: is {size}, but this Swin is made for {tuple(own)}; leave it out, or build the Swin with "
                "another img_size"
            )
        height, width = cast(tuple[int, int], block.input_resolution)
    else:
        if size is None:
            raise UserError(
                "image_size: is missing, but global filters are shaped for one; give the pixels a side of your images"
            )
        reduction = cast(int, cast(ConvNeXt, model).feature_info[stage]["reduction"])
        height, width = size[0] // reduction, size[1] // reduction
        if min(height, width) < 1:
            raise UserError(f"image_size: is {size}, but stage {stage + 1} needs {reduction} pixels a side or more")
    return height, width // 2 + 1


def _build_mixer(name: str, old: nn.Module, *, order: int, scale: float, filter_grid: FilterGrid | None) -> GnConv:
    """Build a gnConv as wide as `old`, where and in what dtype that one is."""
    like = next(old.parameters())
    is_map = isinstance(old, nn.Conv2d)
    channels = cast(int, old.in_channels if is_map else old.dim)
    build = GnConv2d if is_map else _build_channels_last
    try:
        with torch.device(like.device):
            mixer = build(channels, order=order, scale=scale, filter_grid=filter_grid)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error
    return mixer.to(dtype=like.dtype).train(old.training)


def _build_channels_last(channels: int, *, order: int, scale: float, filter_grid: FilterGrid | None) -> GnConv:
    """Build the gnConv over (B, H, W, C) that HorNet has, initialised as GnConv2d."""
    if filter_grid is not None:
        _require_filter(channels, order, filter_grid)
    mixer = GnConv(channels, order=order, scale=scale, filter_grid=filter_grid)
    initialize_by_fan_in(mixer)
    return mixer

"""HorNet (arXiv 2207.14284): stem, four stages of blocks with downsampling between them, pooled classifier.

Names and shapes of the state dict are the original ones (raoyongming/HorNet at ac9e210), so checkpoints pass between
the two unchanged. Inside, tensors are (B, H, W, C); at the border timm's convention for convolutional networks holds:
images and feature maps are (B, C, H, W). The border costs a view, not a copy. An isotropic HorNet is one of a single
stage behind a stem of larger patches.

Not here: names and sizes of the variants (variants.py), loading a checkpoint of another image size (resize.py).
"""

import operator
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from timm.models._features import feature_take_indices  # not exported, but every timm model uses it
from torch import Tensor, nn
from torch.nn import functional

from hornet.errors import UserError
from hornet.model.block import Block, OneBranchBlock, ResidualBlock
from hornet.model.convolution import ChannelsLast, build_patch_conv
from hornet.model.global_filter import NORM_EPS, FilterGrid, GlobalLocalFilter
from hornet.model.gnconv import use_kernels
from hornet.model.layer_groups import build_layer_matcher
from hornet.model.sizes import NO_TORCHSCRIPT, STEM_STRIDE, BlockForm, Kernels
from hornet.model.state_dicts import find_only_state_dict, plain_names

if TYPE_CHECKING:
    from hornet.model.cost import Cost

INIT_STD = 0.02

BLOCKS: dict[BlockForm, type[Block | OneBranchBlock]] = {"hornet": Block, "convnext": OneBranchBlock}

ImageSize = int | tuple[int, int]
"""Pixels: one number for a square, else (height, width)."""


def compute_grid(image_size: ImageSize, stage: int, *, stem_stride: int = STEM_STRIDE) -> tuple[int, int]:
    """Height and width in positions of the feature map of stage 0 to 3. Borders that fill no patch are dropped."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    stride = stem_stride * 2**stage
    return height // stride, width // stride


def compute_filter_grid(image_size: ImageSize, stage: int, *, stem_stride: int = STEM_STRIDE) -> FilterGrid:
    """Height and width of a filter of that stage: 14 x 8 and 7 x 4 at 224 pixels, 24 x 13 and 12 x 7 at 384."""
    height, width = compute_grid(image_size, stage, stem_stride=stem_stride)
    if min(height, width) < 1:
        smallest = stem_stride * 2**stage
        raise ValueError(f"img_size is {image_size}, but stage {stage + 1} needs {smallest} pixels a side or more.")
    return height, width // 2 + 1


def compute_drop_path_rates(rate: float, num_blocks: int) -> list[float]:
    """Rates per block, linear from 0 at the first to `rate` at the last."""
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"drop_path_rate is {rate}, but must lie in [0, 1).")
    return [rate * block / max(num_blocks - 1, 1) for block in range(num_blocks)]


def initialize(module: nn.Module) -> None:
    """Set one module's own parameters to their initial values; for `Module.apply`, which ZeRO-3 knows how to gather."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INIT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm | GlobalLocalFilter | ResidualBlock):
        module.reset_parameters()


@torch.fx.wrap  # a leaf there: torch.fx knows no sizes
def lay_out(images: Tensor, *, num_stages: int, stem_stride: int) -> Tensor:
    """Return (B, in_chans, H, W) in the layout that all later tensors have, with its channels last in memory.

    Raises UserError if that many stages would leave nothing of them.
    """
    if torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting():
        # One graph per image size. On meeting a second size torch.compile makes sizes symbolic, and Inductor
        # (torch 2.13) then fails on these convolutions; `index` ties the graph to the numbers.
        operator.index(images.shape[2]), operator.index(images.shape[3])
    smallest = stem_stride * 2 ** (num_stages - 1)
    is_traced = (
        torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    )  # the question would become part of the graph
    if not is_traced and min(images.shape[2:]) < smallest:
        stages = "1 stage of HorNet needs" if num_stages == 1 else f"{num_stages} stages of HorNet need"
        size = " x ".join(map(str, images.shape[2:]))
        raise UserError(f"images: are {size} pixels, but {stages} {smallest} a side or more")
    # Three channels are cheap to reorder. Not by memory_format, which torch.func.vmap does not know.
    return images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def pool(x_bhwc: Tensor, kind: str) -> Tensor:
    """(B, H, W, C) -> (B, C): the mean over all positions, the largest value, or the mean of both."""
    if kind == "avg":
        return x_bhwc.mean(dim=(1, 2))
    largest = x_bhwc.amax(dim=(1, 2))
    return largest if kind == "max" else (x_bhwc.mean(dim=(1, 2)) + largest) / 2


def _require_stages(depths: Sequence[int], orders: Sequence[int], filter_stages: Sequence[int]) -> None:
    count = len(depths)
    for name, values in (("depths", depths), ("orders", orders)):
        if not values or len(values) != count or min(values) < 1:
            wanted = count or "one or more"
            raise ValueError(f"{name} is {tuple(values)}, but must hold {wanted} numbers of 1 or more, one a stage.")
    if not set(filter_stages) <= set(range(count)):
        raise ValueError(f"filter_stages is {tuple(filter_stages)}, but stages are numbered 0 to {count - 1}.")


class HorNet(nn.Module):
    """The network. `width` is C of the first stage, and each of the next has twice the channels of the one before.

    `stem_stride` is the side of a patch in pixels, `block_form` a key of BLOCKS. `filter_stages` (0-based) use global
    filters, shaped for `img_size`; any other input size works too and resizes the filters on the fly. `global_pool` is
    "avg" (the published networks'), "max" or "avgmax", or "" (only without a head) to return the feature map.
    """

    output_fmt = "NCHW"

    def __init__(
        self,
        *,
        width: int,
        depths: Sequence[int],
        orders: Sequence[int] = (2, 3, 4, 5),
        filter_stages: Sequence[int] = (),
        stem_stride: int = STEM_STRIDE,
        block_form: BlockForm = "hornet",
        img_size: ImageSize = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        layer_scale_init: float = 1e-6,
        head_init_scale: float = 1.0,
    ) -> None:
        super().__init__()
        num_stages = len(depths)
        _require_stages(depths, orders, filter_stages)
        if block_form not in BLOCKS:
            raise ValueError(f"block_form is {block_form!r}, but must be one of {', '.join(BLOCKS)}.")
        self.depths = tuple(depths)
        self.stem_stride = stem_stride
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.head_init_scale = head_init_scale
        channels = [width * 2**stage for stage in range(num_stages)]
        self.num_features = self.head_hidden_size = channels[-1]
        self.feature_info = [
            {"num_chs": channels[stage], "reduction": stem_stride * 2**stage, "module": f"stages.{stage}"}
            for stage in range(num_stages)
        ]

        stem = ChannelsLast(
            build_patch_conv(in_chans, width, patch_size=stem_stride), nn.LayerNorm(width, eps=NORM_EPS)
        )
        self.downsample_layers = nn.ModuleList([stem])
        for narrow, wide in pairwise(channels):
            self.downsample_layers.append(
                ChannelsLast(nn.LayerNorm(narrow, eps=NORM_EPS), build_patch_conv(narrow, wide, patch_size=2))
            )
        self.stages = nn.ModuleList()
        for stage in range(num_stages):
            grid = compute_filter_grid(img_size, stage, stem_stride=stem_stride) if stage in filter_stages else None
            blocks = [
                BLOCKS[block_form](
                    channels[stage], order=orders[stage], filter_grid=grid, layer_scale_init=layer_scale_init
                )
                for _ in range(depths[stage])
            ]
            self.stages.append(ChannelsLast(*blocks))
        self.norm: nn.Module = nn.LayerNorm(self.num_features, eps=NORM_EPS)
        self.init_weights()
        self.global_pool = global_pool
        self.reset_classifier(num_classes)
        self.set_drop_path_rate(drop_path_rate)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As nn.Module's, for what other programs leave too: wrapped under a key, prefixed, with counters beside it."""
        if any(isinstance(value, Mapping) for value in state_dict.values()):  # timm's reader knows fewer keys than ours
            state_dict = find_only_state_dict(state_dict, source="the checkpoint")
        return super().load_state_dict(plain_names(state_dict)[0], strict=strict, assign=assign)

    def init_weights(self) -> None:
        """Draw all weights anew, for instance after `to_empty` brought a model from the meta device."""
        self.apply(initialize)
        if isinstance(getattr(self, "head", None), nn.Linear):
            self.head.apply(self._initialize_head)

    def _initialize_head(self, module: nn.Module) -> None:
        assert isinstance(module, nn.Linear)
        initialize(module)
        with torch.no_grad():
            module.weight.mul_(self.head_init_scale)

    def set_drop_path_rate(self, rate: float) -> None:
        """Set stochastic depth: linear over the blocks, 0 at the first, `rate` at the last. Cheap; call it per step."""
        blocks = [block for stage in self.stages for block in stage.children()]
        for block, block_rate in zip(blocks, compute_drop_path_rates(rate, len(blocks)), strict=True):
            assert isinstance(block, ResidualBlock)
            block.drop_path_rate = block_rate

    def use_kernels(self, kernels: Kernels) -> None:
        """As gnconv.use_kernels."""
        use_kernels(self, kernels)

    def count_multiply_adds(self, image_size: ImageSize) -> "Cost":
        """Count the multiply-adds of a forward pass of one image of that many pixels; raises ValueError below 32."""
        from hornet.model.cost import count_hornet  # which knows this class

        return count_hornet(self, image_size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> logits (B, num_classes); without a head, pooled features (B, num_features)."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> the last stage's map (B, num_features, H / 32, W / 32), before pooling and norm."""
        x = lay_out(images, num_stages=len(self.stages), stem_stride=self.stem_stride)
        for downsampling, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsampling(x))
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map (B, num_features, h, w) -> logits (B, num_classes), or pooled and normed features with `pre_logits`."""
        x = x.permute(0, 2, 3, 1)
        if not self.global_pool:
            normed: Tensor = self.norm(x)
            return normed.permute(0, 3, 1, 2)
        x = self.norm(pool(x, self.global_pool))
        x = functional.dropout(x, self.drop_rate, self.training)
        if pre_logits:
            return x
        logits: Tensor = self.head(x)
        return logits

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """timm's: images -> maps of the stages in `indices`, as "NCHW" or "NHWC"; `norm` acts on the last stage."""
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f'output_fmt is {output_fmt!r}, but must be "NCHW" or "NHWC".')
        wanted, last = feature_take_indices(len(self.stages), indices)
        num_stages = last + 1 if stop_early else len(self.stages)
        x = lay_out(x, num_stages=num_stages, stem_stride=self.stem_stride)
        maps = []
        for stage in range(num_stages):
            x = self.stages[stage](self.downsample_layers[stage](x))
            if stage in wanted:
                x_bhwc = x.permute(0, 2, 3, 1)
                maps.append(self.norm(x_bhwc) if norm and stage == len(self.depths) - 1 else x_bhwc)
        if output_fmt == "NCHW":
            maps = [x_bhwc.permute(0, 3, 1, 2) for x_bhwc in maps]
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """timm's: drop the stages after the last of `indices` and, then or when asked, norm and head."""
        wanted, last = feature_take_indices(len(self.stages), indices)
        is_cut = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        self.downsample_layers = self.downsample_layers[: last + 1]
        if prune_norm or is_cut:
            self.norm = nn.Identity()
        if is_cut:
            num_chs = self.feature_info[last]["num_chs"]
            assert isinstance(num_chs, int)
            self.num_features = self.head_hidden_size = num_chs
        if prune_head or is_cut:
            self.reset_classifier(0, "")
        return list(wanted)

    def get_classifier(self) -> nn.Module:
        """Return the last linear layer, or nn.Identity without one."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a fresh one, or by none with `num_classes=0`; `global_pool` None leaves the pooling."""
        kind = self.global_pool if global_pool is None else global_pool
        if kind not in ("avg", "max", "avgmax", ""):
            raise ValueError(f'global_pool is {kind!r}, but must be "avg", "max", "avgmax" or "".')
        if num_classes and not kind:
            raise ValueError('global_pool is "", which returns a feature map, so num_classes must be 0.')
        self.global_pool = kind
        self.num_classes = num_classes
        # Where the rest of the network lives, and in its dtype.
        like = next(self.parameters())
        self.head: nn.Module = nn.Identity()
        if num_classes:
            self.head = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)
            self.head.apply(self._initialize_head)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        for stage in self.stages:
            assert isinstance(stage, ChannelsLast)
            stage.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Layers for timm's layer-wise learning rate decay; see layer_groups.py."""
        return build_layer_matcher(self.depths, coarse=coarse)

    def no_weight_decay(self) -> set[str]:
        """Parameters of two and more axes that must not decay: none. The original decays the filters too."""
        return set()

    def __prepare_scriptable__(self) -> NoReturn:
        """Say to torch.jit.script, which calls this, why it cannot."""
        raise UserError(NO_TORCHSCRIPT)

"""Which parameters share a layer, for layer-wise learning rate decay through timm's `group_with_matcher`.

The ids are those of the original finetuning code (`get_num_layer_for_hornet`), where depth 18 gives 0 to 13:
stem 0, stage 1 -> 1, downsample and stage 2 -> 2, downsample 3 -> 3, block b of stage 3 -> 3 + b // 2,
downsample and stage 4 -> the next, norm and head -> the last. Other depths of stage 3 give fewer or more ids.
Networks that have not four stages (isotropic ones) get one id a block.
ConvNeXt's own code (facebookresearch/ConvNeXt @231af90, optim_factory.py) does the same with b // 3, so that depth 27
gives 0 to 13, too; timm counts each of its blocks, by which the stem of ConvNeXt-L learns 200 times slower.
"""

from collections.abc import Sequence
from types import MethodType
from typing import Any

from torch import nn

from hornet.model.sizes import NUM_STAGES

BLOCKS_PER_LAYER = 2
CONVNEXT_BLOCKS_PER_LAYER = 3


def build_layer_matcher(depths: Sequence[int], *, coarse: bool) -> dict[str, str]:
    """Regular expressions over parameter names, in the order of the layers; what none matches (norm, head) comes last.

    timm numbers the entries in their order, so each must match something: no layer may be empty. Groups in the
    expressions are non-capturing because timm sorts by what is captured. `coarse`: one group a stage.
    """
    if coarse:
        return {"stem": r"^downsample_layers\.0\.", "stages": r"^(?:downsample_layers|stages)\.(\d+)\."}
    if len(depths) != NUM_STAGES:
        return _match_blocks(depths)
    return _match_stages(
        depths,
        stem=r"^downsample_layers\.0\.",
        downsampling=r"downsample_layers\.{stage}\.",
        block=r"stages\.{stage}\.(?:{blocks})\.",
        blocks_per_layer=BLOCKS_PER_LAYER,
    )


def give_published_layers(model: nn.Module) -> None:
    """Let a ConvNeXt of timm's have the layers of its original in the place of a layer for each block."""
    from timm.models.convnext import ConvNeXt  # not above: it may be half loaded, having asked for timm

    if isinstance(model, ConvNeXt) and len(model.stages) == NUM_STAGES:
        model.group_matcher = MethodType(_match_convnext, model)


def _match_convnext(model: Any, coarse: bool = False) -> Any:
    """See `build_layer_matcher`; coarse groups are timm's own."""
    if coarse:
        return type(model).group_matcher(model, coarse=True)
    return _match_stages(
        [len(stage.blocks) for stage in model.stages],
        stem=r"^stem\.",
        downsampling=r"stages\.{stage}\.downsample\.",
        block=r"stages\.{stage}\.blocks\.(?:{blocks})\.",
        blocks_per_layer=CONVNEXT_BLOCKS_PER_LAYER,
    )


def _match_stages(
    depths: Sequence[int], *, stem: str, downsampling: str, block: str, blocks_per_layer: int
) -> dict[str, str]:
    """One layer for each of four stages, but some blocks a layer of the third; templates say what names begin with."""
    layers = [(0, range(depths[0])), (1, range(depths[1]))]
    layers += [
        (2, range(first, min(first + blocks_per_layer, depths[2]))) for first in range(0, depths[2], blocks_per_layer)
    ]
    layers += [(3, range(depths[3]))]
    matcher = {"layer_0": stem}
    for layer, (stage, blocks) in enumerate(layers, start=1):
        names = [block.format(stage=stage, blocks="|".join(map(str, blocks)))]
        if not blocks.start:
            names.append(downsampling.format(stage=stage))
        matcher[f"layer_{layer}"] = rf"^(?:{'|'.join(names)})"
    return matcher


def _match_blocks(depths: Sequence[int]) -> dict[str, str]:
    """One layer a block, the downsampling before a stage with its first block."""
    blocks = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    matcher = {"layer_0": r"^downsample_layers\.0\."}
    for layer, (stage, block) in enumerate(blocks, start=1):
        downsampling = rf"downsample_layers\.{stage}\.|" if stage and not block else ""
        matcher[f"layer_{layer}"] = rf"^(?:{downsampling}stages\.{stage}\.{block}\.)"
    return matcher

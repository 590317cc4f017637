"""Which parameters share a layer, for layer-wise learning rate decay through timm's `group_with_matcher`.

The ids are those of the original finetuning code (`get_num_layer_for_hornet`), where depth 18 gives 0 to 13:
stem 0, stage 1 -> 1, downsample and stage 2 -> 2, downsample 3 -> 3, block b of stage 3 -> 3 + b // 2,
downsample and stage 4 -> the next, norm and head -> the last. Other depths of stage 3 give fewer or more ids.
Networks that have not four stages (isotropic ones) get one id a block.
"""

from collections.abc import Sequence

from hornet.model.sizes import NUM_STAGES

BLOCKS_PER_LAYER = 2
FIRST_LAYER_OF_LONG_STAGE = 3


def build_layer_matcher(depths: Sequence[int], *, coarse: bool) -> dict[str, str]:
    """Regular expressions over parameter names, in the order of the layers; what none matches (norm, head) comes last.

    timm numbers the entries in their order, so each must match something: no layer may be empty. Groups in the
    expressions are non-capturing because timm sorts by what is captured. `coarse`: one group a stage.
    """
    if coarse:
        return {"stem": r"^downsample_layers\.0\.", "stages": r"^(?:downsample_layers|stages)\.(\d+)\."}
    if len(depths) != NUM_STAGES:
        return _match_blocks(depths)
    matcher = {
        "layer_0": r"^downsample_layers\.0\.",
        "layer_1": r"^stages\.0\.",
        "layer_2": r"^(?:downsample_layers|stages)\.1\.",
    }
    last = FIRST_LAYER_OF_LONG_STAGE + (depths[2] - 1) // BLOCKS_PER_LAYER
    for layer in range(FIRST_LAYER_OF_LONG_STAGE, last + 1):
        first_block = (layer - FIRST_LAYER_OF_LONG_STAGE) * BLOCKS_PER_LAYER
        blocks = "|".join(str(block) for block in range(first_block, first_block + BLOCKS_PER_LAYER))
        downsampling = r"downsample_layers\.2\.|" if layer == FIRST_LAYER_OF_LONG_STAGE else ""
        matcher[f"layer_{layer}"] = rf"^(?:{downsampling}stages\.2\.(?:{blocks})\.)"
    matcher[f"layer_{last + 1}"] = r"^(?:downsample_layers|stages)\.3\."
    return matcher


def _match_blocks(depths: Sequence[int]) -> dict[str, str]:
    """One layer a block, the downsampling before a stage with its first block."""
    blocks = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    matcher = {"layer_0": r"^downsample_layers\.0\."}
    for layer, (stage, block) in enumerate(blocks, start=1):
        downsampling = rf"downsample_layers\.{stage}\.|" if stage and not block else ""
        matcher[f"layer_{layer}"] = rf"^(?:{downsampling}stages\.{stage}\.{block}\.)"
    return matcher

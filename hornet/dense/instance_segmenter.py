"""Mask R-CNN and Cascade Mask R-CNN as this project's runs train and evaluate them: on whole batches, resized before.

torchvision's detectors resize and normalise images themselves, and infer the pyramid's strides from the first batch
they see; here sizes come with the batch, and strides are what they are. Parts and names are theirs (detectors.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.poolers import LevelMapper

from hornet.dense.backbone import DenseBackbone
from hornet.dense.cascade import CascadeRoiHeads
from hornet.dense.config import Detector
from hornet.dense.detectors import build_cascade_mask_rcnn, build_mask_rcnn, run_all_parts
from hornet.dense.pyramid import FeaturePyramid
from hornet.model.cost import Cost, MultiplyAdds, count_forward

STRIDE = 32
"""Pixels that the sides of a batch are filled up to a multiple of."""
NUM_LEVELS = 5
STRIDES = tuple(4 * 2**level for level in range(NUM_LEVELS))
"""Pixels from anchor to anchor, of each map."""
RATIOS = (0.5, 1.0, 2.0)
"""Height over width of the anchors."""
NUM_PROPOSALS = {"mask_rcnn": 1000, "cascade_mask_rcnn": 2000}
"""Of an image in training, as the original's configs; 1,000 in evaluation."""
LAST_LAYER = 12
"""Number of the backbone's last layer to the original's layer-wise decay; the heads are one further."""


class FixedAnchors(AnchorGenerator):  # type: ignore[misc]
    """Anchors 4, 8, 16, 32 and 64 pixels apart, as the positions of the maps are.

    torchvision divides the sides of a batch by those of its maps: 800 pixels by the smallest's 13 positions are 61.
    """

    def grid_anchors(self, grid_sizes: list[list[int]], strides: Any) -> list[Tensor]:
        """Return the anchors (positions x anchors a position, 4) of each map, whatever `strides` says."""
        anchors: list[Tensor] = super().grid_anchors(grid_sizes, [[stride, stride] for stride in STRIDES])
        return anchors


class InstanceSegmenter(nn.Module):
    """A detector with masks: normalised images of several sizes in a batch -> losses, or detections.

    Convolutions and linear layers run under the caller's autocast; what is computed from their outputs (anchors, boxes,
    assignment, losses) is fp32, since bf16 has no pixel's precision beyond 256.
    """

    def __init__(self, parts: GeneralizedRCNN) -> None:
        super().__init__()
        self.backbone, self.rpn, self.roi_heads = parts.backbone, parts.rpn, parts.roi_heads
        for pool in (self.roi_heads.box_roi_pool, self.roi_heads.mask_roi_pool):
            pool.scales, pool.map_levels = [1 / 4, 1 / 8, 1 / 16, 1 / 32], LevelMapper(2, 5)
        for module in [self.rpn.head, *_list_predictors(self.roi_heads)]:
            module.register_forward_hook(_to_float)

    def forward(
        self,
        images: Tensor,
        sizes: Sequence[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Images (B, 3, H, W), each (height, width) of `sizes` from its top left corner, the rest 0.

        In training -> losses by name, for targets as torchvision's: boxes (N, 4), labels (N,) from 1, masks (N, h, w).
        In evaluation -> for each image boxes (N, 4) in its pixels, labels (N,), scores (N,), falling, and masks
        (N, 1, 28, 28), probabilities within the boxes.
        """
        sizes = [(int(height), int(width)) for height, width in sizes]
        height, width = images.shape[2:]
        images = functional.pad(images, (0, -width % STRIDE, 0, -height % STRIDE))
        features = {name: x.float() for name, x in self.backbone(images).items()}
        proposals, losses = self.rpn(ImageList(images, sizes), features, targets)
        detections, further = self.roi_heads(features, proposals, sizes, targets)
        output: dict[str, Tensor] | list[dict[str, Tensor]] = losses | further if self.training else detections
        return output

    def count_decays(self, name: str) -> int:
        """Return how often layer decay applies to the learning rate of a parameter.

        Layer-wise as in the original (object_detection/mmcv_custom, decay_type layer_wise with num_layers 12): the stem
        13 times, stage 1 12 times, stage 2 with its downsampling 11 times, stage 3 with its own from 10 times on, once
        less every three blocks, stage 4 with its own once; pyramid, heads and the norms behind the stages never.
        """
        part, _, rest = name.removeprefix("backbone.body.").partition(".")
        if not name.startswith("backbone.body.") or part not in ("downsample_layers", "stages"):
            return 0
        stage, block = (int(number) if number.isdigit() else 0 for number in rest.split(".")[:2])
        if part == "downsample_layers":
            layer = (0, 2, 3, LAST_LAYER)[stage]
        else:
            layer = (1, 2, 3 + block // 3, LAST_LAYER)[stage]
        return LAST_LAYER + 1 - layer

    def count_multiply_adds(self, image_size: int) -> Cost:
        """Cost of the forward pass of a square image in training, with as many regions as it may have."""
        executed, _ = count_forward(_Counted(self), image_size)
        return Cost(by_kind={"all": MultiplyAdds(executed, executed)})


def build_instance_segmenter(
    kind: Detector,
    backbone: DenseBackbone,
    neck: FeaturePyramid,
    *,
    num_classes: int,
    anchor_size: int = 32,
    num_regions: int = 512,
) -> InstanceSegmenter:
    """Build a detector with fresh heads for `num_classes` kinds of things; labels are 1 to num_classes.

    `anchor_size` is the edge in pixels of the anchors on the map of stride 4; those of each further map are twice as
    large. `num_regions` of an image, at most, go through the heads of boxes in training, and a quarter of them through
    those of masks.
    """
    anchors = FixedAnchors(tuple((anchor_size * 2**level,) for level in range(NUM_LEVELS)), (RATIOS,) * NUM_LEVELS)
    build = build_mask_rcnn if kind == "mask_rcnn" else build_cascade_mask_rcnn
    parts = build(
        backbone,
        neck,
        num_classes=num_classes,
        rpn_anchor_generator=anchors,
        rpn_post_nms_top_n_train=NUM_PROPOSALS[kind],
    )
    parts.roi_heads.fg_bg_sampler.batch_size_per_image = num_regions
    return InstanceSegmenter(parts)


class _Counted(nn.Module):
    """What of a detector costs, without what depends on what it sees."""

    def __init__(self, network: InstanceSegmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> None:
        sampler = self.network.roi_heads.fg_bg_sampler
        num_boxes = sampler.batch_size_per_image
        run_all_parts(self.network, images, num_boxes=num_boxes, num_masks=int(num_boxes * sampler.positive_fraction))


def _list_predictors(heads: nn.Module) -> list[nn.Module]:
    """Return the modules whose outputs leave the heads."""
    if isinstance(heads, CascadeRoiHeads):
        return [*heads.stages, *(stage.mask_predictor for stage in heads.stages)]
    return [heads.box_predictor, heads.mask_predictor]  # type: ignore[list-item]


def _to_float(module: nn.Module, inputs: Any, output: Any) -> Any:
    """Return a module's tensors, in lists and tuples, as fp32."""
    if isinstance(output, Tensor):
        return output.float()
    return type(output)(_to_float(module, inputs, part) for part in output)

"""Mask R-CNN and Cascade Mask R-CNN (arXiv 1906.09756) on HorNet, from torchvision's parts.

Anchors, assignment and losses are those of the original's object_detection/configs (raoyongming/HorNet at ac9e210).
Not here: the cascade itself (cascade.py).
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from hornet.dense.backbone import DenseBackbone
from hornet.dense.cascade import BOX_SIZE, MASK_SIZE, CascadeRoiHeads, CascadeStage
from hornet.dense.pyramid import FeaturePyramid
from hornet.errors import UserError

OWN_PARTS = ("mask_head", "mask_predictor")
"""Settings of torchvision's MaskRCNN in whose place ours are put."""
OWN_OF_CASCADE = (
    "box_roi_pool",
    "box_head",
    "box_predictor",
    "box_fg_iou_thresh",
    "box_bg_iou_thresh",
    "bbox_reg_weights",
)
"""Settings of torchvision's FasterRCNN that each stage of a cascade has for itself."""


class PyramidBackbone(nn.Module):
    """Backbone and pyramid as torchvision's detectors want them: a mapping of maps with the same channels."""

    def __init__(self, backbone: DenseBackbone, neck: FeaturePyramid) -> None:
        super().__init__()
        self.body = backbone
        self.neck = neck
        self.out_channels = neck.out_channels

    def forward(self, images: Tensor) -> "OrderedDict[str, Tensor]":
        """(B, 3, H, W) -> maps of strides 4 to 32 under "0" to "3", and of stride 64 under "pool"."""
        *maps, pooled = self.neck(self.body(images))
        return OrderedDict([*((str(index), x) for index, x in enumerate(maps)), ("pool", pooled)])


def build_mask_rcnn(backbone: DenseBackbone, neck: FeaturePyramid, *, num_classes: int, **settings: Any) -> MaskRCNN:
    """Mask R-CNN for `num_classes` kinds of things, counted without the background; labels are 1 to num_classes.

    `settings` are those of torchvision's MaskRCNN (min_size, max_size, rpn_batch_size_per_image, ...), whose call,
    targets, losses and detections are the detector's. The mask head is as wide as the pyramid's maps, so settings of
    another raise UserError.
    """
    _refuse(settings, OWN_PARTS, why="the detector has its own, as wide as the pyramid's maps")
    detector = MaskRCNN(PyramidBackbone(backbone, neck), num_classes=num_classes + 1, **settings)
    width = neck.out_channels
    detector.roi_heads.mask_head = MaskRCNNHeads(width, (width,) * 4, dilation=1)
    detector.roi_heads.mask_predictor = MaskRCNNPredictor(width, width, num_classes + 1)
    return detector


def build_cascade_mask_rcnn(
    backbone: DenseBackbone, neck: FeaturePyramid, *, num_classes: int, **settings: Any
) -> FasterRCNN:
    """Cascade Mask R-CNN of three stages, each with four convolutions in its box head; otherwise as build_mask_rcnn.

    `settings` are those of torchvision's FasterRCNN that concern images, proposals, how many boxes are learned from and
    what is detected; what the stages have for themselves (hornet.dense.cascade.STAGES) raises UserError.
    """
    _refuse(settings, OWN_OF_CASCADE, why="each stage of the cascade has its own")
    detector = FasterRCNN(PyramidBackbone(backbone, neck), num_classes=num_classes + 1, **settings)
    heads = CascadeRoiHeads(neck.out_channels, num_classes=num_classes)
    for name in ("fg_bg_sampler", "score_thresh", "nms_thresh", "detections_per_img"):
        setattr(heads, name, getattr(detector.roi_heads, name))
    detector.roi_heads = heads
    return detector


def _refuse(settings: Iterable[str], names: Iterable[str], *, why: str) -> None:
    for name in names:
        if name in settings:
            raise UserError(f"{name}: {why}; leave it out")


def run_all_parts(network: Any, images: Tensor, *, num_boxes: int, num_masks: int) -> None:
    """Run a detector's parts on images (B, 3, H, W), with that many regions each, whatever is seen: for counting."""
    maps = list(network.backbone(images).values())
    network.rpn.head(maps)
    heads, channels = network.roi_heads, maps[0].shape[1]
    boxes = images.new_zeros(len(images) * num_boxes, channels, BOX_SIZE, BOX_SIZE)
    masks = images.new_zeros(len(images) * num_masks, channels, MASK_SIZE, MASK_SIZE)
    if isinstance(heads, CascadeRoiHeads):
        for stage in heads.stages:
            assert isinstance(stage, CascadeStage)
            stage(boxes)
            stage.predict_masks(masks)
    else:
        heads.box_predictor(heads.box_head(boxes))
        heads.mask_predictor(heads.mask_head(masks))

"""The heads of Cascade Mask R-CNN: three in a row, each trained on the boxes that the one before has refined.

Source: arXiv 1906.09756, and the settings of the original's Cascade Mask R-CNN configs (raoyongming/HorNet at ac9e210).
torchvision has the parts (assignment, sampling, coding, pooling, mask losses), but no cascade.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference, maskrcnn_loss
from torchvision.ops import MultiScaleRoIAlign, generalized_box_iou_loss
from torchvision.ops import boxes as box_ops

Target = dict[str, Tensor]
"""Of one image: boxes (N, 4) as x1, y1, x2, y2 in pixels; labels (N,) from 1; masks (N, H, W) of 0 and 1."""

MAPS = ["0", "1", "2", "3"]
BOX_SIZE, MASK_SIZE = 7, 14
"""Positions a side that a region is pooled to."""
HIDDEN = 1024
GIOU_WEIGHT = 10.0


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """What differs between the stages."""

    min_iou: float
    """Overlap with an object from which a box counts as that object's."""
    scales: tuple[float, float, float, float]
    """Standard deviations that offsets of centre x, y and of log width, height are divided by."""
    loss_weight: float


STAGES = (
    StageSettings(min_iou=0.5, scales=(0.1, 0.1, 0.2, 0.2), loss_weight=1.0),
    StageSettings(min_iou=0.6, scales=(0.05, 0.05, 0.1, 0.1), loss_weight=0.5),
    StageSettings(min_iou=0.7, scales=(0.033, 0.033, 0.067, 0.067), loss_weight=0.25),
)


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """The boxes of one image that a stage learns from."""

    boxes: Tensor
    """(N, 4)."""
    labels: Tensor
    """(N,); 0 is background."""
    objects: Tensor
    """(N,) index of the object that each box is compared with."""
    object_boxes: Tensor
    """(N, 4) of those objects."""
    is_annotated: Tensor
    """(N,) whether the box is an object's own and no proposal."""


class CascadeStage(nn.Module):
    """The heads of one stage, for `num_classes` kinds of things: scores, boxes of each kind, masks of each kind."""

    def __init__(self, in_channels: int, *, num_classes: int, settings: StageSettings) -> None:
        super().__init__()
        self.min_iou, self.loss_weight = settings.min_iou, settings.loss_weight
        self.coder = BoxCoder(tuple(1 / scale for scale in settings.scales))
        self.matcher = Matcher(settings.min_iou, settings.min_iou, allow_low_quality_matches=False)
        self.box_head = FastRCNNConvFCHead(
            (in_channels, BOX_SIZE, BOX_SIZE), [in_channels] * 4, [HIDDEN], norm_layer=nn.BatchNorm2d
        )
        self.fc_cls = nn.Linear(HIDDEN, num_classes + 1)
        self.fc_reg = nn.Linear(HIDDEN, 4 * num_classes)
        nn.init.normal_(self.fc_cls.weight, std=0.01)
        nn.init.normal_(self.fc_reg.weight, std=0.001)
        for layer in (self.fc_cls, self.fc_reg):
            nn.init.zeros_(layer.bias)
        self.mask_head = MaskRCNNHeads(in_channels, (in_channels,) * 4, dilation=1)
        self.mask_predictor = MaskRCNNPredictor(in_channels, in_channels, num_classes)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Regions (N, C, 7, 7) -> logits (N, num_classes + 1), background first, and offsets (N, num_classes, 4)."""
        hidden = self.box_head(pooled)
        return self.fc_cls(hidden), self.fc_reg(hidden).unflatten(1, (-1, 4))

    def predict_masks(self, pooled: Tensor) -> Tensor:
        """Regions (N, C, 14, 14) -> mask logits (N, num_classes, 28, 28)."""
        logits: Tensor = self.mask_predictor(self.mask_head(pooled))
        return logits

    def decode(self, offsets: Tensor, boxes: Tensor, kinds: Tensor) -> Tensor:
        """Return boxes (N, 4) moved by the offsets (N, num_classes, 4) of the kinds (N,) from 0."""
        chosen = offsets[torch.arange(len(kinds), device=kinds.device), kinds]
        moved: Tensor = self.coder.decode_single(chosen, boxes)
        return moved


class CascadeRoiHeads(RoIHeads):  # type: ignore[misc]
    """In the place of torchvision's RoIHeads in a FasterRCNN: the same call, losses by stage, detections with masks.

    In training each stage's loss is cross entropy, 10 x the generalised IoU loss of its boxes and the masks' binary
    cross entropy, weighted 1, 0.5 and 0.25. In evaluation the stages' logits and masks are averaged.
    """

    def __init__(self, in_channels: int, *, num_classes: int) -> None:
        super().__init__(
            box_roi_pool=MultiScaleRoIAlign(MAPS, output_size=BOX_SIZE, sampling_ratio=0),
            box_head=None,
            box_predictor=None,
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=512,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=0.05,
            nms_thresh=0.5,
            detections_per_img=100,
            mask_roi_pool=MultiScaleRoIAlign(MAPS, output_size=MASK_SIZE, sampling_ratio=0),
        )
        self.stages = nn.ModuleList(
            CascadeStage(in_channels, num_classes=num_classes, settings=settings) for settings in STAGES
        )

    def has_mask(self) -> bool:
        """Say yes to torchvision, which asks before it checks the targets."""
        return True

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return detections, none in training, and losses, none in evaluation, of boxes (N, 4) of each image."""
        if self.training:
            self.check_targets(targets)
            assert targets is not None
            return [], self._compute_losses(features, proposals, image_shapes, targets)
        return self._detect(features, proposals, image_shapes), {}

    def _compute_losses(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: list[tuple[int, int]], targets: Any
    ) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        for index, stage in enumerate(self.stages):
            assert isinstance(stage, CascadeStage)
            sampled = [self._sample(stage, boxes, target) for boxes, target in zip(proposals, targets, strict=True)]
            boxes = [image.boxes for image in sampled]
            logits, offsets = stage(self.box_roi_pool(features, boxes, image_shapes))
            labels = torch.cat([image.labels for image in sampled])
            found = {
                "classifier": functional.cross_entropy(logits, labels),
                "box": _compute_box_loss(stage, offsets, sampled),
                "mask": self._compute_mask_loss(stage, features, sampled, image_shapes, targets),
            }
            losses |= {f"loss_{name}_{index}": stage.loss_weight * loss for name, loss in found.items()}
            proposals = _refine(stage, logits.detach(), offsets.detach(), sampled, image_shapes)
        return losses

    @torch.no_grad()
    def _sample(self, stage: CascadeStage, boxes: Tensor, target: Target) -> Sampled:
        """Choose boxes of one image to learn from, the annotated ones among them."""
        own = target["boxes"].to(boxes.dtype)
        candidates = torch.cat([boxes, own])
        self.proposal_matcher = stage.matcher
        [objects], [labels] = self.assign_targets_to_proposals([candidates], [own], [target["labels"]])
        [chosen] = self.subsample([labels])
        objects, is_annotated = objects[chosen], chosen >= len(boxes)
        # Nothing is compared in an image without objects: all of it is background.
        object_boxes = own[objects] if len(own) else candidates[chosen]
        return Sampled(
            boxes=candidates[chosen],
            labels=labels[chosen],
            objects=objects,
            object_boxes=object_boxes,
            is_annotated=is_annotated,
        )

    def _compute_mask_loss(
        self,
        stage: CascadeStage,
        features: dict[str, Tensor],
        sampled: Sequence[Sampled],
        image_shapes: list[tuple[int, int]],
        targets: list[Target],
    ) -> Tensor:
        of_objects = [image.labels > 0 for image in sampled]
        boxes = [image.boxes[mask] for image, mask in zip(sampled, of_objects, strict=True)]
        logits = stage.predict_masks(self.mask_roi_pool(features, boxes, image_shapes))
        masks = [target["masks"] for target in targets]
        kinds = [target["labels"] - 1 for target in targets]
        objects = [image.objects[mask] for image, mask in zip(sampled, of_objects, strict=True)]
        loss: Tensor = maskrcnn_loss(logits, boxes, masks, kinds, objects)
        return loss

    def _detect(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        counts = [len(boxes) for boxes in proposals]
        of_stages = []
        for index, stage in enumerate(self.stages):
            assert isinstance(stage, CascadeStage)
            logits, offsets = stage(self.box_roi_pool(features, proposals, image_shapes))
            of_stages.append(logits)
            if index + 1 < len(self.stages):
                moved = stage.decode(offsets, torch.cat(proposals), logits[:, 1:].argmax(dim=1))
                proposals = _clip(moved.split(counts), image_shapes)
        self.box_coder = stage.coder
        offsets = functional.pad(offsets, (0, 0, 1, 0)).flatten(1)  # torchvision wants a background's too
        logits = torch.stack(of_stages).mean(dim=0)
        found = self.postprocess_detections(logits, offsets, proposals, image_shapes)
        detections = [
            {"boxes": boxes, "scores": scores, "labels": labels} for boxes, scores, labels in zip(*found, strict=True)
        ]
        pooled = self.mask_roi_pool(features, [image["boxes"] for image in detections], image_shapes)
        kinds = [image["labels"] - 1 for image in detections]
        masks = [maskrcnn_inference(stage.predict_masks(pooled), kinds) for stage in self.stages]  # type: ignore[operator]
        for image, *of_image in zip(detections, *masks, strict=True):
            image["masks"] = torch.stack(of_image).mean(dim=0)
        return detections


def _compute_box_loss(stage: CascadeStage, offsets: Tensor, sampled: Sequence[Sampled]) -> Tensor:
    """Generalised IoU loss of the boxes of objects, summed over them and divided by all boxes that were sampled."""
    labels = torch.cat([image.labels for image in sampled])
    objects = labels.nonzero()[:, 0]
    boxes = torch.cat([image.boxes for image in sampled])[objects]
    wanted = torch.cat([image.object_boxes for image in sampled])[objects]
    moved = stage.decode(offsets[objects], boxes, labels[objects] - 1)
    total: Tensor = generalized_box_iou_loss(moved, wanted, reduction="sum")
    return GIOU_WEIGHT * total / max(len(labels), 1)


@torch.no_grad()
def _refine(
    stage: CascadeStage,
    logits: Tensor,
    offsets: Tensor,
    sampled: Sequence[Sampled],
    image_shapes: list[tuple[int, int]],
) -> list[Tensor]:
    """Return each image's boxes for the next stage: moved as the kind says that it is, or else that it seems to be.

    Without the annotated ones, which the next stage adds again.
    """
    counts = [len(image.boxes) for image in sampled]
    labels = torch.cat([image.labels for image in sampled])
    kinds = torch.where(labels > 0, labels - 1, logits[:, 1:].argmax(dim=1))
    moved = stage.decode(offsets, torch.cat([image.boxes for image in sampled]), kinds)
    clipped = _clip(moved.split(counts), image_shapes)
    return [boxes[~image.is_annotated] for boxes, image in zip(clipped, sampled, strict=True)]


def _clip(boxes: Sequence[Tensor], image_shapes: list[tuple[int, int]]) -> list[Tensor]:
    return [box_ops.clip_boxes_to_image(some, shape) for some, shape in zip(boxes, image_shapes, strict=True)]

"""What a detector finds in images, at their own size, and how good that is over a set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import paste_masks_in_image

from hornet.batch import Batch
from hornet.training.average_precision import AveragePrecision, DetectionEvaluation

MIN_MASK = 0.5
"""Probability from which a pixel belongs to a thing."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The things that a detector finds in one image, the surest first; at the image's own size, on the device."""

    boxes: Tensor
    """float32 (N, 4): x1, y1, x2, y2 in pixels."""
    labels: Tensor
    """int64 (N,), from 1."""
    scores: Tensor
    """float32 (N,)."""
    masks: Tensor
    """bool (N, H, W)."""


@torch.no_grad()
def detect(network: nn.Module, images: Tensor, batch: Batch) -> list[Found]:
    """Return what an InstanceSegmenter in evaluation mode finds in a batch, whose normalised images these are."""
    assert batch.instances is not None
    found = []
    sizes = [image.size for image in batch.instances]
    for detections, image in zip(network(images, sizes), batch.instances, strict=True):
        (height, width), (full_height, full_width) = image.size, image.original_size
        scale = [full_width / width, full_height / height] * 2
        boxes = detections["boxes"].float() * torch.tensor(scale, device=images.device)
        masks = paste_masks_in_image(detections["masks"].float(), boxes, image.original_size)
        found.append(
            Found(
                boxes=boxes,
                labels=detections["labels"],
                scores=detections["scores"].float(),
                masks=masks[:, 0] >= MIN_MASK,
            )
        )
    return found


def measure_instances(
    network: nn.Module,
    batches: Iterable[Batch],
    *,
    precision: AveragePrecision,
    normalise: Callable[[Batch], Tensor],
) -> DetectionEvaluation:
    """Measure a detector over this rank's batches, each image once, and over all ranks. Collective at its end.

    `precision` has counted nothing yet, and holds afterwards what was found.
    """
    for batch in batches:
        precision.add_bad(len(batch.bad_samples))
        if not batch.is_real.all():  # one image a batch: padding, or one that could not be read
            continue
        assert batch.instances is not None
        for image, found in zip(batch.instances, detect(network, normalise(batch), batch), strict=True):
            precision.add(image, boxes=found.boxes, scores=found.scores, labels=found.labels, masks=found.masks)
    return precision.finish()

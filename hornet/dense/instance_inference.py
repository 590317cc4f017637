"""What a detector finds in images, at their own size, and how good that is over a set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hornet.batch import Batch
from hornet.training.average_precision import AveragePrecision, DetectionEvaluation

MIN_MASK = 0.5
"""Probability from which a pixel belongs to a thing."""
TAUGHT_SHIFT = 0.5
"""Pixels of the resized image by which torchvision cuts the masks that are learned from too far right and below: it
takes a pixel's middle for its corner."""


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
        scale = full_width / width, full_height / height
        boxes = detections["boxes"].float() * torch.tensor(scale * 2, device=images.device)
        shift = [TAUGHT_SHIFT * factor for factor in scale]
        found.append(
            Found(
                boxes=boxes,
                labels=detections["labels"],
                scores=detections["scores"].float(),
                masks=paste_masks(detections["masks"][:, 0].float(), boxes, size=image.original_size, shift=shift),
            )
        )
    return found


def paste_masks(masks: Tensor, boxes: Tensor, *, size: tuple[int, int], shift: Sequence[float] = (0, 0)) -> Tensor:
    """Return the masks, bool (N, H, W), of probabilities (N, m, m) within boxes (N, 4), at `size`, height and width.

    What is asked is the probability at the middle of each pixel of a box, linear between the middles of the cells, as
    in the original (which lets it fall to half in the outer half of the outermost cells; here their own goes on, as
    they were taught). torchvision's own moves the corners of a box to whole pixels and makes it one pixel larger: the
    right mask of an object of 20 pixels overlaps the object by 0.9 there. `shift` is by how many pixels, across and
    down, what the cells tell of lies further on than they do.
    """
    with torch.autocast(masks.device.type, enabled=False):  # bf16 has no place within a pixel
        across, down = (
            _weigh_cells(boxes[:, axis], boxes[:, axis + 2], shift[axis], num_pixels=size[1 - axis], num_cells=cells)
            for axis, cells in enumerate((masks.shape[2], masks.shape[1]))
        )
        return down @ masks @ across.transpose(1, 2) >= MIN_MASK


def _weigh_cells(start: Tensor, end: Tensor, shift: float, *, num_pixels: int, num_cells: int) -> Tensor:
    """Return (N, pixels, cells): the share that each cell from start (N,) to end (N,) has in the middle of a pixel."""
    middles = torch.arange(num_pixels, device=start.device) + 0.5
    is_within = (middles >= start[:, None]) & (middles <= end[:, None])
    places = (middles - shift - start[:, None]) / (end - start)[:, None] * num_cells - 0.5
    distances = (places.clamp(0, num_cells - 1)[:, :, None] - torch.arange(num_cells, device=start.device)).abs()
    return (1 - distances).clamp(min=0) * is_within[:, :, None]


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

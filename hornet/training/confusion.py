"""Mean intersection over union of a segmenter over a set: every pixel of every image counted exactly once.

One matrix of whole numbers, summed over ranks: the same on any number of them. Pixels of no class are left out.
Source of the measures: Everingham et al. 2010 (PASCAL VOC) and Long et al. 2015 (arXiv 1411.4038, section 5).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hornet.training.process_group import sum_over_ranks


@dataclass(frozen=True, kw_only=True)
class SegmentationEvaluation:
    """The result over the whole set; classes that neither masks nor predictions have are left out of the means."""

    miou: float
    """Mean over classes of intersection over union of predicted and true pixels, in percent."""
    macc: float
    """Mean over classes of the share of their pixels that are right, in percent."""
    aacc: float
    """Share of all pixels that are right, in percent."""
    loss: float
    """Mean cross entropy of a pixel; of weights that have diverged, not finite."""
    num_images: int
    """Images counted."""
    num_bad_images: int
    """Images that could not be read, or their masks; they are left out."""
    class_iou: tuple[float | None, ...]
    """Intersection over union of each class, in percent, in the order of the labels; None where there is none."""


class ConfusionMatrix:
    """Counts of one model over this rank's images, summed over ranks at the end."""

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self._images = torch.zeros(2, dtype=torch.int64)
        self._loss = torch.zeros((), dtype=torch.float64)

    def add(self, predicted: Tensor, masks: Tensor, *, loss: Tensor) -> None:
        """Count an image: classes (H, W) as predicted and as they are, -1 for none; `loss` is summed over pixels."""
        is_counted = masks >= 0
        pairs = masks[is_counted].long() * self._num_classes + predicted[is_counted].long()
        counts = torch.bincount(pairs, minlength=self._num_classes**2)
        self._counts += counts.view(self._num_classes, self._num_classes).cpu()
        self._loss += loss.double().cpu()
        self._images[0] += 1

    def add_bad(self, num_images: int) -> None:
        """Count images that could not be read."""
        self._images[1] += num_images

    def finish(self) -> SegmentationEvaluation:
        """Return the result over all ranks. Collective."""
        counts = sum_over_ranks(self._counts)
        num_images, num_bad = sum_over_ranks(self._images).tolist()
        loss = float(sum_over_ranks(self._loss))
        right, true, predicted = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
        union = true + predicted - right
        return SegmentationEvaluation(
            miou=_average(right, union),
            macc=_average(right, true),
            aacc=100 * int(right.sum()) / max(1, int(counts.sum())),
            loss=loss / max(1, int(counts.sum())),
            num_images=num_images,
            num_bad_images=num_bad,
            class_iou=tuple(
                100 * part / whole if whole else None
                for part, whole in zip(right.tolist(), union.tolist(), strict=True)
            ),
        )


def _average(parts: Tensor, wholes: Tensor) -> float:
    """Return the mean of parts / wholes where there are wholes, in percent; 0 if there are none."""
    shares: list[float] = [part / whole for part, whole in zip(parts.tolist(), wholes.tolist(), strict=True) if whole]
    return 100 * sum(shares) / max(1, len(shares))

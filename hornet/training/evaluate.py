"""Top-1, top-5 and loss of a model over a labelled set, every image counted exactly once on any number of ranks.

Not here: what more an evaluation by itself tells (measures.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from hornet.batch import Batch
from hornet.training.average_precision import DetectionEvaluation
from hornet.training.confusion import SegmentationEvaluation
from hornet.training.image_results import ImageResults
from hornet.training.process_group import sum_over_ranks


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result over the whole set."""

    top1: float
    """Share of images whose label has the highest logit, in percent."""
    top5: float
    """Share of images whose label is among the five highest logits, in percent."""
    loss: float
    """Mean cross entropy; of weights that have diverged, not finite."""
    num_images: int
    """Images counted."""
    num_bad_images: int
    """Images that could not be read; they are left out of the shares."""


class Evaluate(Protocol):
    """Evaluates a model in eval mode on a labelled set, and adds each image to `images`, if given. Collective."""

    def __call__(  # noqa: D102
        self, model: nn.Module, images: ImageResults | None = None
    ) -> Evaluation | SegmentationEvaluation | DetectionEvaluation: ...


class Tally:
    """Counts of one model over this rank's batches, summed over ranks at the end."""

    def __init__(self) -> None:
        self._sums = torch.zeros(6, dtype=torch.float64)  # whole numbers up to 2**53 are exact

    def add(self, judged: Judged, *, num_bad: int) -> None:
        """Count a batch; `num_bad` images of it could not be read."""
        counts = [judged.hits[:, 0].sum(), judged.hits.sum(), judged.is_counted.sum(), judged.has_loss.sum()]
        self._sums[:4] += torch.stack(counts).double().cpu()
        self._sums[4] += judged.losses[judged.has_loss].double().sum().cpu()
        self._sums[5] += num_bad

    def finish(self) -> Evaluation:
        """Return the result over all ranks. Collective."""
        top1, top5, num_images, num_losses, loss, num_bad = sum_over_ranks(self._sums).tolist()
        counted = max(1.0, num_images)
        return Evaluation(
            top1=100 * top1 / counted,
            top5=100 * top5 / counted,
            loss=loss / max(1.0, num_losses),
            num_images=int(num_images),
            num_bad_images=int(num_bad),
        )


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a model says of the images of a batch, and what of it is right; (B,) each, on the device."""

    top: Tensor
    """int64 (B, up to 5): classes of the highest logits, the highest first."""
    hits: Tensor
    """bool like `top`: counted, and the class is the image's."""
    confidences: Tensor
    """float: the highest class's probability; NaN where a logit is."""
    losses: Tensor
    """float: cross entropy of the label."""
    labels: Tensor
    """int64: the label."""
    is_counted: Tensor
    """bool: an image, and one that is to be judged."""
    has_loss: Tensor
    """bool: counted, and the model has a logit for its label."""


def judge(logits: Tensor, labels: Tensor, is_counted: Tensor, *, is_in_head: Tensor | None = None) -> Judged:
    """Judge (B, K) float logits by (B,) labels.

    `is_in_head` (B,) is False where the label is of a class that the model does not know, all of whose logits are -inf:
    such an image counts as missed, and has no loss. None: it knows all.
    """
    top = logits.topk(min(5, logits.shape[1]), dim=1).indices
    is_known = ~logits.isnan().any(dim=1)  # of NaN, topk would return classes too
    has_loss = is_counted if is_in_head is None else is_counted & is_in_head
    return Judged(
        top=top,
        hits=(top == labels[:, None]) & (has_loss & is_known)[:, None],
        confidences=logits.softmax(dim=1).amax(dim=1),
        losses=functional.cross_entropy(logits, labels, reduction="none"),
        labels=labels,
        is_counted=is_counted,
        has_loss=has_loss,
    )


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    normalise: Callable[[Batch], Tensor],
    device: torch.device,
    images: ImageResults | None = None,
) -> Evaluation:
    """Evaluate `model` over this rank's batches and sum over ranks. Collective; all ranks must have as many batches.

    `normalise` turns a batch's uint8 images into the model's float input on the device. This rank's images are added
    to `images`, if given.
    """
    tally = Tally()
    for batch in batches:
        logits = model(normalise(batch)).float()
        judged = judge(logits, batch.labels.to(device), batch.is_real.to(device))
        tally.add(judged, num_bad=len(batch.bad_samples))
        if images is not None:
            is_counted = judged.is_counted
            images.add(batch.key_hashes[batch.is_real], judged.losses[is_counted], judged.hits[is_counted, 0])
    return tally.finish()


MEASURES = {
    "top1": "top-1",
    "top5": "top-5",
    "miou": "mIoU",
    "macc": "mAcc",
    "aacc": "aAcc",
    "mask_ap": "mask AP",
    "box_ap": "box AP",
    "mask_ap50": "mask AP50",
    "box_ap50": "box AP50",
}
"""What an evaluation's row has in percent, and what people call it: of classes, of pixels, of instances."""


def list_measures(row: Mapping[str, Any]) -> list[str]:
    """Return the keys of the measures that an evaluation's row has; by the first, weights are compared."""
    return [key for key in MEASURES if key in row]


def find_best(rows: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the evaluation with the highest first measure, of those of finite loss if there are any; None of none."""
    return max(rows, key=lambda row: (has_finite_loss(row), row[list_measures(row)[0]]), default=None)


def has_finite_loss(row: Mapping[str, Any]) -> bool:
    """Whether an evaluation's loss is a number; evaluations.jsonl has null where it was NaN or infinite.

    One of instances has no loss, and counts as finite: its measures are 0 where weights have diverged.
    """
    return "loss" not in row or (row["loss"] is not None and math.isfinite(row["loss"]))


def format_evaluation(row: Mapping[str, Any]) -> str:
    """Return an evaluation's fields as a line for people; the row may be one of evaluations.jsonl."""
    shares = ", ".join(f"{MEASURES[key]} {row[key]:.2f} %" for key in list_measures(row))
    if "loss" in row:
        shares += f", loss {row['loss']:.4f}" if has_finite_loss(row) else ", loss not finite"
    return f"{shares} on {row['num_images']} images" + (
        f", {row['num_bad_images']} could not be read" if row["num_bad_images"] else ""
    )

"""Top-1, top-5 and loss of a model over a labelled set, every image counted exactly once on any number of ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from hornet.batch import Batch
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

    def __call__(self, model: nn.Module, images: ImageResults | None = None) -> Evaluation: ...  # noqa: D102


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
    sums = torch.zeros(5, dtype=torch.float64)
    for batch in batches:
        logits = model(normalise(batch)).float()
        labels = batch.labels.to(device)
        is_real = batch.is_real.to(device)
        top = logits.topk(min(5, logits.shape[1]), dim=1).indices
        is_known = ~logits.isnan().any(dim=1)  # of NaN, topk would return classes too
        hits = (top == labels[:, None]) & (is_real & is_known)[:, None]
        losses = functional.cross_entropy(logits, labels, reduction="none")[is_real]
        counts = torch.stack([hits[:, 0].sum(), hits.sum(), is_real.sum()]).double().cpu()
        sums[:3] += counts
        sums[3] += losses.double().sum().cpu()
        sums[4] += len(batch.bad_samples)
        if images is not None:
            images.add(batch.key_hashes[batch.is_real], losses, hits[:, 0][is_real])
    top1, top5, num_images, loss, num_bad = sum_over_ranks(sums).tolist()
    counted = max(1.0, num_images)
    return Evaluation(
        top1=100 * top1 / counted,
        top5=100 * top5 / counted,
        loss=loss / counted,
        num_images=int(num_images),
        num_bad_images=int(num_bad),
    )


def find_best(rows: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the evaluation with the highest top-1, of those whose loss is finite if there are any; None of none."""
    return max(rows, key=lambda row: (has_finite_loss(row), row["top1"]), default=None)


def has_finite_loss(row: Mapping[str, Any]) -> bool:
    """Whether an evaluation's loss is a number; evaluations.jsonl has null where it was NaN or infinite."""
    return row["loss"] is not None and math.isfinite(row["loss"])


def format_evaluation(row: Mapping[str, Any]) -> str:
    """Return an evaluation's fields as a line for people; the row may be one of evaluations.jsonl."""
    loss = f"{row['loss']:.4f}" if has_finite_loss(row) else "not finite"
    return f"top-1 {row['top1']:.2f} %, top-5 {row['top5']:.2f} %, loss {loss} on {row['num_images']} images" + (
        f", {row['num_bad_images']} could not be read" if row["num_bad_images"] else ""
    )

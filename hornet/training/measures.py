"""What an evaluation by itself tells beyond top-1, top-5 and loss: calibration, classes, confusions, several labels.

Counts are whole numbers, summed over ranks: the same on any number of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hornet.training.evaluate import Evaluation, Judged, Tally
from hornet.training.process_group import gather_from_all, sum_over_ranks


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far the highest probability is from the share of images that it is right for."""

    error: float
    """Expected calibration error, 0 to 1 (Guo et al. 2017, arXiv 1706.04599, equation 3)."""
    counts: tuple[int, ...]
    """Images whose highest probability lies in each of equally wide bins of (0, 1], the lowest first."""
    hits: tuple[int, ...]
    """Of these, how many the class was right for."""
    confidences: tuple[float, ...]
    """Sum of the highest probabilities of each bin."""


@dataclass(frozen=True, kw_only=True)
class ClassCount:
    """Images of one class."""

    label: int
    """Its number in the judged label space."""
    num_images: int
    """Images of it that were counted."""
    top1: int
    """How many of them have it as the highest logit."""
    top5: int
    """How many have it among the five highest."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Images of one class that are taken for another."""

    label: int
    """The class they are of."""
    predicted: int
    """The class that has the highest logit."""
    count: int
    """Images that are taken so."""


@dataclass(frozen=True, kw_only=True)
class MultiLabel:
    """Result by labels of several classes; an image without any is left out."""

    top1: float
    """Share of images of which the highest logit's class is one of the image's, in percent."""
    top5: float
    """Share of images of which one of the five highest is, in percent."""
    num_images: int
    """Images that have a label, and were counted."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """All that is measured of one model on one set."""

    evaluation: Evaluation
    """Top-1, top-5, loss and the number of images."""
    calibration: Calibration
    """Confidence against accuracy, in bins."""
    classes: tuple[ClassCount, ...]
    """Each class, in the order of its labels."""
    confusions: tuple[Confusion, ...]
    """Pairs of classes that are most often confused, the most frequent first."""
    multi_label: MultiLabel | None
    """Result by labels of several classes, if there are any."""


class Measures:
    """Counts of one model over this rank's batches, summed over ranks at the end."""

    def __init__(self, *, num_classes: int, num_bins: int, num_confusions: int) -> None:
        self._num_confusions = num_confusions
        self._tally = Tally()
        self._classes = torch.zeros(3, num_classes, dtype=torch.int64)
        self._bins = torch.zeros(2, num_bins, dtype=torch.int64)
        self._confidences = torch.zeros(num_bins, dtype=torch.float64)
        self._multi = torch.zeros(3, dtype=torch.int64)
        self._has_multi = False
        self._pairs: list[Tensor] = []

    def add(self, judged: Judged, *, num_bad: int, accepted: Tensor | None = None) -> None:
        """Count a batch.

        `accepted` (B, K) bool says which classes an image may be taken for, by labels of several classes; an image
        without any is left out of that result alone.
        """
        self._tally.add(judged, num_bad=num_bad)
        if accepted is not None:
            self._has_multi = True
            self._multi += _count_multi(judged, accepted)
        chosen = judged.is_counted
        labels, hits, top = judged.labels[chosen], judged.hits[chosen], judged.top[chosen]
        confidences = judged.confidences[chosen]
        for row, weights in enumerate((torch.ones_like(labels), hits[:, 0], hits.any(dim=1))):
            self._classes[row] += _bin_counts(labels, weights, self._classes.shape[1])
        is_number = ~confidences.isnan()
        num_bins = self._bins.shape[1]
        bins = (confidences[is_number].double() * num_bins).ceil().long().clamp(1, num_bins) - 1
        self._bins[0] += _bin_counts(bins, torch.ones_like(bins), num_bins)
        self._bins[1] += _bin_counts(bins, hits[is_number, 0], num_bins)
        self._confidences += torch.bincount(bins, confidences[is_number].double(), minlength=num_bins).cpu()
        is_missed = ~hits[:, 0] & is_number
        self._pairs.append((labels * self._classes.shape[1] + top[:, 0])[is_missed].cpu())

    def finish(self) -> Measurement:
        """Return the result over all ranks. Collective."""
        evaluation = self._tally.finish()
        images, top1, top5 = sum_over_ranks(self._classes).tolist()
        multi = sum_over_ranks(self._multi).tolist()
        return Measurement(
            evaluation=evaluation,
            calibration=self._finish_calibration(),
            classes=tuple(
                ClassCount(label=label, num_images=images[label], top1=top1[label], top5=top5[label])
                for label in range(len(images))
            ),
            confusions=self._finish_confusions(),
            multi_label=MultiLabel(
                top1=100 * multi[0] / max(1, multi[2]), top5=100 * multi[1] / max(1, multi[2]), num_images=multi[2]
            )
            if self._has_multi
            else None,
        )

    def _finish_calibration(self) -> Calibration:
        counts, hits = sum_over_ranks(self._bins).tolist()
        confidences = sum_over_ranks(self._confidences).tolist()
        gaps = sum(abs(right - sure) for right, sure in zip(hits, confidences, strict=True))
        return Calibration(
            error=gaps / max(1, sum(counts)), counts=tuple(counts), hits=tuple(hits), confidences=tuple(confidences)
        )

    def _finish_confusions(self) -> tuple[Confusion, ...]:
        pairs, counts = torch.cat([torch.zeros(0, dtype=torch.int64), *self._pairs]).unique(return_counts=True)
        found: dict[int, int] = {}
        for mine in gather_from_all(dict(zip(pairs.tolist(), counts.tolist(), strict=True))):
            for pair, count in mine.items():
                found[pair] = found.get(pair, 0) + count
        most = sorted(found.items(), key=lambda item: (-item[1], item[0]))[: self._num_confusions]
        num_classes = self._classes.shape[1]
        return tuple(
            Confusion(label=pair // num_classes, predicted=pair % num_classes, count=count) for pair, count in most
        )


def _bin_counts(bins: Tensor, weights: Tensor, num_bins: int) -> Tensor:
    """Return how many of `weights` (bool or 0 and 1) are set in each bin, on the CPU."""
    return torch.bincount(bins[weights.bool()], minlength=num_bins).cpu()


def _count_multi(judged: Judged, accepted: Tensor) -> Tensor:
    is_counted = judged.is_counted & accepted.any(dim=1)
    is_known = is_counted & ~judged.confidences.isnan()
    right = accepted.gather(1, judged.top) & is_known[:, None]
    return torch.stack([right[:, 0].sum(), right.any(dim=1).sum(), is_counted.sum()]).cpu()

"""Which image gets which label, goes to which split, and stands where: pure arithmetic on the listing.

Not here: reading images (`writing.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hornet.errors import UserError
from hornet.seeding import permute
from hornet.shards.imagenet import recognise
from hornet.shards.label_space import LabelSpace, name_some

OtherClasses = Literal["refuse", "drop"]

Int32Array = npt.NDArray[np.int32]
Uint32Array = npt.NDArray[np.uint32]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which classes and images are wanted. Part of what makes a set's bytes."""

    other_classes: OtherClasses = "refuse"
    """What becomes of images whose class is not in a given label space."""
    min_images_per_class: int = 1
    """Classes with fewer are dropped from a label space that is made from the source."""
    validation_per_class: int = 0
    """Images of each class, the first by name, that go to split `validation` instead."""
    validation_share: float = 0.0
    """Share of each class, taken at random, that goes to split `validation` instead."""
    validation_seed: int = 0
    """Of that taking at random."""
    validation_at_least: int = 1
    """Images of each class that go there at least, however small its share."""

    def __post_init__(self) -> None:
        if self.min_images_per_class < 1:
            raise UserError(f"min-images-per-class: must be at least 1, not {self.min_images_per_class}")
        if self.validation_per_class < 0:
            raise UserError(f"validation-per-class: must be 0 or more, not {self.validation_per_class}")
        if not 0 <= self.validation_share < 1:
            raise UserError(f"validation-share: must be at least 0 and below 1, not {self.validation_share:g}")
        if self.validation_at_least < 1:
            raise UserError(f"validation-at-least: must be at least 1, not {self.validation_at_least}")
        if self.validation_share and self.validation_per_class:
            raise UserError("validation-share: takes images at random, validation-per-class the first; give only one")
        if not self.validation_share and (self.validation_seed, self.validation_at_least) != (0, 1):
            raise UserError("validation-seed, validation-at-least: mean nothing without validation-share; give it too")

    @property
    def has_validation(self) -> bool:
        """Whether a split `validation` is made beside the other."""
        return self.validation_per_class > 0 or self.validation_share > 0

    def count_validation(self, num_images: int) -> int:
        """Return how many images of a class of so many are for validation; one at least is always left to train on."""
        if not self.validation_share:
            return min(num_images, self.validation_per_class)
        wanted = max(self.validation_at_least, math.floor(self.validation_share * num_images + 0.5))
        return max(0, min(num_images - 1, wanted))

    def describe(self) -> dict[str, Any]:
        """Return what the set's bytes depend on, as JSON values; without what a plan of 0.1.0 had not, while unused."""
        came_later = {"validation_share", "validation_seed", "validation_at_least"}
        return {key: value for key, value in asdict(self).items() if self.validation_share or key not in came_later}


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The label of each class of a source."""

    label_space: LabelSpace
    """What the labels mean."""
    of_class: Int32Array
    """(num_source_classes,) label of each, -1 where its images are dropped."""
    dropped: Mapping[str, str]
    """Class names that get no label, and why."""
    empty: tuple[str, ...]
    """Classes of the label space of which there are no images."""


def assign_labels(
    classes: Sequence[str],
    counts: npt.NDArray[np.int64],
    *,
    name: str,
    given: LabelSpace | None,
    order: Sequence[str] | None,
    selection: Selection,
) -> Labels:
    """Give labels to the classes met (`counts` images each).

    `given` is a label space that must be kept; without it the labels follow `order` if the source has one, else the
    sorted names. Raises UserError.
    """
    if given is None:
        listed = list(order) if order is not None else sorted(classes)
        number_of = dict(zip(classes, counts.tolist(), strict=True))
        few = [label for label in listed if number_of.get(label, 0) < selection.min_images_per_class]
        if selection.min_images_per_class == 1:
            few = []  # a class that is named and empty keeps its label
        reason = f"fewer than {selection.min_images_per_class} images"
        kept = set(few)
        space = _make_space(name, [label for label in listed if label not in kept], reason)
        dropped = {label: f"{number_of.get(label, 0)} images, {reason}" for label in few}
    else:
        space, dropped = given, _find_others(classes, given, selection)
    labels = {label: number for number, label in enumerate(space.classes)}
    met = set(classes)
    return Labels(
        label_space=space,
        of_class=np.array([labels.get(class_name, -1) for class_name in classes], np.int32),
        dropped=dropped,
        empty=tuple(class_name for class_name in space.classes if class_name not in met),
    )


def split_images(
    labels: Int32Array, selection: Selection, *, split: str, classes: Sequence[str]
) -> dict[str, Uint32Array]:
    """Return the numbers of each split's images, in the listing's order.

    `labels` (num_images,) is -1 for dropped ones. Raises UserError if a class would have no training image left.
    """
    if not selection.has_validation:
        return {split: np.flatnonzero(labels >= 0).astype(np.uint32)}
    order = np.argsort(labels, kind="stable").astype(np.uint32)  # by class, and in a class by the listing's order
    counts = np.bincount(labels + 1, minlength=len(classes) + 1)
    has_share = selection.validation_share > 0
    least = selection.validation_at_least if has_share else selection.validation_per_class
    short = [classes[label] for label, count in enumerate(counts[1:]) if 0 < count <= least]
    if short:
        raise UserError(
            f"validation-{'at-least' if has_share else 'per-class'}: {len(short)} classes have {least} images or "
            f"fewer, so none would be left to train on ({name_some(short)}); make it smaller, or drop them with "
            f"--min-images-per-class {least + 1}"
        )
    is_validation = np.zeros(len(labels), bool)
    starts = np.cumsum(counts)
    for name, start, count in zip(classes, starts[:-1].tolist(), counts[1:].tolist(), strict=True):
        of_class = order[start : start + count]
        if has_share:  # by the class's name, so other classes change nothing
            of_class = of_class[permute(count, "validation", selection.validation_seed, name)]
        is_validation[of_class[: selection.count_validation(count)]] = True
    return {
        split: np.flatnonzero((labels >= 0) & ~is_validation).astype(np.uint32),
        "validation": np.flatnonzero(is_validation).astype(np.uint32),
    }


def shuffle(numbers: Uint32Array, *, split: str, seed: int) -> Uint32Array:
    """Return the numbers in the order in which the images fill the shards: one permutation, so classes are spread."""
    return numbers[permute(len(numbers), "build", split, seed)]


def _make_space(name: str, classes: Sequence[str], reason: str) -> LabelSpace:
    if not classes:
        raise UserError(f"no class is left: all have {reason}; lower --min-images-per-class")
    return LabelSpace(name=recognise(classes) or name, classes=tuple(classes))


def _find_others(classes: Sequence[str], given: LabelSpace, selection: Selection) -> dict[str, str]:
    if selection.min_images_per_class != 1:
        raise UserError(
            "min-images-per-class: means nothing with a given label space, whose classes stay; leave it out"
        )
    known = set(given.classes)
    others = [class_name for class_name in classes if class_name not in known]
    if others and selection.other_classes == "refuse":
        raise UserError(
            f"{len(others)} of the source's {len(classes)} classes are not in the label space {given.name!r} of "
            f"{len(given)} classes, fingerprint {given.fingerprint[:16]} ({name_some(others)}); choose the label "
            "space with --classes, another output folder, or leave their images out with --other-classes drop"
        )
    return dict.fromkeys(others, f"not in {given.name}")

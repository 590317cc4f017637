"""Whose classes decide: how the rows of a head are judged by the labels of a set that numbers other classes.

ImageNet's relatives differ in this: A and R are 200 of its classes, V2's folders are numbers, ReaL gives an image
several classes or none, and weights of 22K have rows for all of them.
"""

from __future__ import annotations

import json
import pkgutil
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hornet.batch import Batch
from hornet.errors import UserError
from hornet.shards.imagenet import find_label_space, make_layout
from hornet.shards.label_report import describe_space
from hornet.shards.label_space import LabelSpace, map_classes
from hornet.stages.classification import require_same_labels
from hornet.stages.config import JudgeConfig
from hornet.training.evaluate import Judged, judge

REAL_LABELS = "_info/imagenet_real_labels.json"
"""In timm.data: the classes of each image of ILSVRC-2012's validation set (Beyer et al. 2020, arXiv 2006.07159)."""
VALIDATION_KEY = re.compile(r"ILSVRC2012_val_(\d{8})")
SUBSETS = {"imagenet-a": "_info/imagenet_a_synsets.txt", "imagenet-r": "_info/imagenet_r_synsets.txt"}
"""In timm.data: the 200 classes of ImageNet-A and of ImageNet-R, which are different ones."""
IN1K = "imagenet-1k"


@dataclass(frozen=True, kw_only=True)
class Judging:
    """How logits of a head become logits of the judged classes, and a set's labels theirs."""

    space: LabelSpace
    """The classes that are judged."""
    rows: Tensor | None
    """int64 (K,): each judged class's row of the head, -1 where it has none; None if the rows are the classes."""
    labels: Tensor | None
    """int64: each label of the set as a judged class, -1 for one that is left out; None if they are the same."""
    real: tuple[tuple[int, ...], ...] | None = None
    """ReaL's classes of each image of the validation set, as judged ones."""
    missing: tuple[str, ...] = field(default=())
    """Judged classes that the head lacks: images of them count as missed, and have no loss."""

    def to(self, device: torch.device) -> Judging:
        """Return the same with its tensors on a device."""
        rows, labels = (None if tensor is None else tensor.to(device) for tensor in (self.rows, self.labels))
        return Judging(space=self.space, rows=rows, labels=labels, real=self.real, missing=self.missing)

    def judge(self, logits: Tensor, batch: Batch) -> Judged:
        """Judge (B, rows of the head) float logits of a batch."""
        labels, is_counted = batch.labels.to(logits.device), batch.is_real.to(logits.device)
        if self.labels is not None:
            labels = self.labels[labels]
            is_counted = is_counted & (labels >= 0)
            labels = labels.clamp(min=0)
        if self.rows is None:
            return judge(logits, labels, is_counted)
        is_in_head = self.rows >= 0
        chosen = logits[:, self.rows.clamp(min=0)].masked_fill(~is_in_head, -torch.inf)
        return judge(chosen, labels, is_counted, is_in_head=is_in_head[labels])

    def accept(self, batch: Batch, *, device: torch.device) -> Tensor | None:
        """Return (B, K) bool: the classes that each image has by ReaL; None if they are not asked for.

        Raises UserError for an image that does not bear its name in the validation set.
        """
        if self.real is None:
            return None
        accepted = torch.zeros(len(batch), len(self.space), dtype=torch.bool)
        for slot, (key, is_real) in enumerate(zip(batch.keys, batch.is_real.tolist(), strict=True)):
            if is_real:
                accepted[slot, list(self.real[_find_number(key, len(self.real)) - 1])] = True
        return accepted.to(device)


def plan_judging(config: JudgeConfig, *, of_set: LabelSpace, of_weights: LabelSpace) -> Judging:
    """Say how weights of one label space are judged on a set of another.

    Raises UserError if the config asks for none of it and they differ, or if they have no class in common.
    """
    if config.numbers_of is not None:
        of_set = read_numbers(of_set, find_label_space(config.numbers_of))
    judged = of_set if config.subset is None else find_subset(config.subset)
    if not config.by_name:
        if judged is not of_set:
            raise UserError(f"judge.subset: {config.subset} needs judge.by_name=true, since it takes classes by name")
        try:
            require_same_labels(of_set, of_weights)
        except UserError as error:
            raise UserError(f"{error}; or judge.by_name=true takes each class's row by its name") from error
    real = list_real(judged) if config.real_labels else None
    if of_weights.fingerprint == judged.fingerprint == of_set.fingerprint:
        return Judging(space=judged, rows=None, labels=None, real=real)
    for space, role in ((of_set, "the set"), (of_weights, "the weights")):
        if space.is_numbered:
            raise UserError(
                f"judge.by_name: the classes of {role}, {space.name!r}, are not known; index the set again with "
                "`--classes NAME|FILE`, or name those of a weight file in label_space"
            )
    rows, labels = map_classes(of_weights, judged), map_classes(judged, of_set)
    for found, here, role in ((rows, of_weights, "the weights"), (labels, of_set, "the set")):
        if found.num_shared == 0:
            raise UserError(
                f"judge.by_name: no class of {role}, {describe_space(here)}, is among those judged, "
                f"{describe_space(judged)}; give a set and weights whose classes bear the same names"
            )
    return Judging(
        space=judged,
        rows=torch.tensor(rows.source_indices),
        labels=torch.tensor(labels.source_indices),
        real=real,
        missing=rows.missing,
    )


def describe_missing(missing: tuple[str, ...]) -> str:
    """Say that some judged classes have no row, and what becomes of their images."""
    return (
        f"{len(missing)} of the judged classes {'is' if len(missing) == 1 else 'are'} none of the weights' "
        f"({', '.join(missing[:3])}{', ...' if missing[3:] else ''}): their images count as missed, and have no loss"
    )


def read_numbers(space: LabelSpace, target: LabelSpace) -> LabelSpace:
    """Return a set's label space whose names are numbers of another's classes, by their names.

    ImageNet-V2's folders are 0 to 999, which sort as 0, 1, 10, 100. Raises UserError if they are no such numbers.
    """
    strange = [name for name in space.classes if not re.fullmatch(r"\d{1,6}", name) or int(name) >= len(target)]
    if strange:
        raise UserError(
            f"judge.numbers_of: the classes of {space.name!r} are not all numbers from 0 to {len(target) - 1}, as the "
            f"classes of {target.name} are counted ({', '.join(strange[:3])}); leave it out if they are names"
        )
    return LabelSpace(
        name=f"{space.name} ({target.name})", classes=tuple(target.classes[int(n)] for n in space.classes)
    )


def find_subset(name: str) -> LabelSpace:
    """Return a label space by its name or file, or one of the subsets that are judged by themselves."""
    if name not in SUBSETS:
        return find_label_space(name)
    return LabelSpace(name=name, classes=tuple(_read_packaged(SUBSETS[name]).decode().split()))


def list_real(judged: LabelSpace) -> tuple[tuple[int, ...], ...]:
    """Return ReaL's labels of each image of the validation set as classes of `judged`; those it lacks are left out."""
    known = make_layout(IN1K)
    to_judged = [judged.labels.get(name, -1) for name in known.classes]
    if max(to_judged) < 0:
        raise UserError(f"judge.real_labels: are of imagenet-1k, of which {describe_space(judged)} has no class")
    rows: Sequence[Sequence[int]] = json.loads(_read_packaged(REAL_LABELS))
    return tuple(tuple(to_judged[label] for label in row if to_judged[label] >= 0) for row in rows)


def _find_number(key: str, num_images: int) -> int:
    found = VALIDATION_KEY.search(key)
    if found is None or not 1 <= int(found[1]) <= num_images:
        raise UserError(
            f"judge.real_labels: the image {key} is not named ILSVRC2012_val_00000001 to {num_images:08d}, by which "
            "its labels are found; build the shards from the files of ILSVRC-2012's validation set, or leave "
            "real_labels out"
        )
    return int(found[1])


def _read_packaged(name: str) -> bytes:
    content = pkgutil.get_data("timm.data", name)
    if content is None:
        raise UserError(f"timm no longer packages {name}; install the timm of requirements.lock")
    return content

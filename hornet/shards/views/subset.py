"""A smaller set that copies nothing: an index and a manifest that choose samples of another set's tars.

Not here: which samples a share consists of (`choosing.py`), how a list of samples is read (`exclusion.py`).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hornet.durable import sync_folder
from hornet.errors import UserError
from hornet.shards.imagenet import find_label_space
from hornet.shards.index import Records, ShardIndex
from hornet.shards.label_space import LabelSpace, map_classes
from hornet.shards.manifest import MANIFEST_NAME, VIEW_COMMAND, Manifest, Split, read_manifest
from hornet.shards.shard_set import ShardSet, open_shards
from hornet.shards.split_writing import add_split
from hornet.shards.views.choosing import rank_in_class, score_samples, share_classes
from hornet.shards.views.exclusion import Exclusions, Flags, match_exclusions, read_exclusions

REDUCED_SPLIT = "train"
STAGING_NAME = ".subset.tmp"


@dataclass(frozen=True, kw_only=True)
class SubsetPlan:
    """What to keep of a set."""

    source: Path
    """Folder of the set, which may itself be a subset."""
    output: Path
    """Folder of the new set; must not hold one."""
    name: str
    """Name that the new set's manifest gets."""
    split: str | None
    """The only split to carry over and reduce; None carries all and reduces `train`."""
    fraction: float | None
    """Share of each class's samples, over 0 and up to 1."""
    per_class: int | None
    """Samples of each class, or all it has."""
    seed: int
    """Of the draw; for one seed a smaller share lies inside a larger one."""
    allow_empty_classes: bool
    """Whether a small fraction may leave a class without samples; else one stays."""
    classes: str | None
    """The new label space: a known one's name, a set's folder or a file of class names."""
    exclude: Path | None
    """JSON lines that name samples to leave out."""
    allow_unmatched: bool
    """Whether lines of `exclude` may name samples that are not there."""

    def __post_init__(self) -> None:
        if self.fraction is not None and self.per_class is not None:
            raise UserError("--fraction and --per-class: give one of the two")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise UserError(f"--fraction: must be over 0 and at most 1, not {self.fraction}")
        if self.per_class is not None and self.per_class < 1:
            raise UserError(f"--per-class: must be at least 1, not {self.per_class}")
        if self.allow_empty_classes and self.fraction is None:
            raise UserError("--allow-empty-classes: has no effect without --fraction")
        if self.allow_unmatched and self.exclude is None:
            raise UserError("--allow-unmatched: has no effect without --exclude")
        if (self.fraction, self.per_class, self.classes, self.exclude, self.split) == (None,) * 5:
            raise UserError("nothing to choose: give --fraction, --per-class, --classes, --exclude or --split")

    @property
    def reduced_split(self) -> str:
        """The split that fraction, per_class and exclude apply to."""
        return self.split or REDUCED_SPLIT


@dataclass(frozen=True, kw_only=True)
class SubsetReport:
    """Which samples the new set has, and what was left out."""

    manifest: Manifest
    """The new set's manifest, as it was written."""
    missing_classes: tuple[str, ...]
    """Classes of the new label space that the source lacks."""
    unmatched: tuple[str, ...]
    """Lines of the exclusion list that name no sample of the reduced split."""


def make_subset(plan: SubsetPlan) -> SubsetReport:
    """Write the chosen samples' index and manifest; the tars stay where they are.

    In this order: samples of other classes go, then those listed, then the share is drawn of what is left.
    Raises UserError if the output holds a set, a class list has nothing in common, or no sample is left of a split.
    """
    if (plan.output / MANIFEST_NAME).exists():
        raise UserError(f"{plan.output / MANIFEST_NAME}: a set is already there; choose another output folder")
    source = read_manifest(plan.source)
    splits = {name: source.split(name) for name in ([plan.split] if plan.split else source.splits)}
    if plan.reduced_split not in splits and (plan.fraction or plan.per_class or plan.exclude):
        raise UserError(f"{source.path}: there is no split {plan.reduced_split!r} to reduce; name one with --split")
    if plan.classes and any("category_ids" in split.origin for split in splits.values()):
        raise UserError(
            f"--classes: the objects of {source.path} are numbered by its own classes, in their members too; leave it "
            "out"
        )
    exclusions = read_exclusions(plan.exclude) if plan.exclude else {}
    label_space, new_labels, missing = _relabel(source.label_space, plan.classes)
    manifest = Manifest(
        path=plan.output / STAGING_NAME / MANIFEST_NAME, name=plan.name, label_space=label_space, splits={}
    )
    plan.output.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(manifest.path.parent, ignore_errors=True)
    manifest.path.parent.mkdir()
    unmatched: tuple[str, ...] = ()
    try:
        for name, split in splits.items():
            shards = open_shards(plan.source, name)
            is_kept, labels, counts = _choose(plan, shards, new_labels, label_space, exclusions)
            unmatched += counts.pop("unmatched", ())
            origin = _describe_origin(plan, source, split, shards) | {"counts": counts}
            manifest = _add_view(manifest, shards, is_kept=is_kept, labels=labels, origin=origin)
        _publish(manifest.path.parent, plan.output)
    finally:
        shutil.rmtree(manifest.path.parent, ignore_errors=True)
    return SubsetReport(manifest=read_manifest(plan.output), missing_classes=missing, unmatched=unmatched)


def describe_subset(report: SubsetReport) -> str:
    """Return what was kept and left out, in lines as those of `describe_set`."""
    lines = []
    for name, split in report.manifest.splits.items():
        counts = dict(split.origin["counts"])
        parts = [f"{count} {reason}" for reason, count in counts.items() if count and reason not in ("source", "kept")]
        text = f"{counts['kept']} of {counts['source']} samples; left out: {', '.join(parts) or 'none'}"
        lines.append(f"kept         {name}: {text}")
    if report.missing_classes:
        names = ", ".join(report.missing_classes[:5]) + (", ..." if len(report.missing_classes) > 5 else "")
        lines.append(f"missing      {len(report.missing_classes)} classes have no counterpart in the source: {names}")
    if report.unmatched:
        lines.append(f"unmatched    {len(report.unmatched)} lines name no sample; the first: {report.unmatched[0]}")
    return "\n".join(lines)


def _relabel(
    source: LabelSpace, classes: str | None
) -> tuple[LabelSpace, np.ndarray[Any, np.dtype[np.int32]], tuple[str, ...]]:
    """Return the new label space, the new label (or -1) of each old one, and the new classes the source lacks."""
    new_labels = np.arange(len(source), dtype=np.int32)
    if classes is None:
        return source, new_labels, ()
    target = _find_classes(classes)
    found = map_classes(source, target)
    if len(found.missing) == len(target):
        raise UserError(
            f"--classes {classes}: none of its {len(target)} classes ({target.classes[0]!r}, ...) is among the "
            f"{len(source)} of the source ({source.classes[0]!r}, ...); the names must agree"
        )
    new_labels[:] = -1
    for label, old in enumerate(found.source_indices):
        if old >= 0:
            new_labels[old] = label
    return target, new_labels, found.missing


def _find_classes(classes: str) -> LabelSpace:
    path = Path(classes)
    return read_manifest(path).label_space if path.is_dir() else find_label_space(classes)


def _choose(
    plan: SubsetPlan,
    shards: ShardSet,
    new_labels: np.ndarray[Any, np.dtype[np.int32]],
    label_space: LabelSpace,
    exclusions: Exclusions,
) -> tuple[Flags, np.ndarray[Any, np.dtype[np.int32]], dict[str, Any]]:
    """Return which samples stay, all samples' new labels, and how many went why."""
    labels = new_labels[shards.records["label"]]
    is_kept: Flags = labels >= 0
    counts: dict[str, Any] = {"source": shards.num_samples, "other classes": int((~is_kept).sum())}
    if shards.split.name == plan.reduced_split:
        if plan.exclude:
            matched = match_exclusions(shards, exclusions)
            if matched.unmatched and not plan.allow_unmatched:
                raise UserError(
                    f"{matched.unmatched[0]}: names no sample of split {shards.split.name!r} of {plan.source} "
                    f"({len(matched.unmatched)} such lines); check the list, or give --allow-unmatched"
                )
            counts["listed"] = int((is_kept & matched.is_excluded).sum())
            counts["unmatched"] = matched.unmatched
            is_kept &= ~matched.is_excluded
        if plan.fraction is not None or plan.per_class is not None:
            before = int(is_kept.sum())
            is_kept = _draw(plan, shards, is_kept, labels, num_classes=len(label_space))
            counts["not drawn"] = before - int(is_kept.sum())
    counts["kept"] = int(is_kept.sum())
    if not counts["kept"]:
        raise UserError(
            f"{plan.source}: no sample of split {shards.split.name!r} is left; keep more, or carry one with --split"
        )
    return is_kept, labels, counts


def _draw(
    plan: SubsetPlan,
    shards: ShardSet,
    is_kept: Flags,
    labels: np.ndarray[Any, np.dtype[np.int32]],
    *,
    num_classes: int,
) -> Flags:
    split = shards.split
    scores = score_samples(shards.records, shards=split.shards, shard_lengths=split.shard_lengths, seed=plan.seed)[
        is_kept
    ]
    kept_labels = labels[is_kept]
    class_counts = np.bincount(kept_labels, minlength=num_classes)
    if plan.per_class is not None:
        quotas = np.full(num_classes, plan.per_class, dtype=np.int64)
    else:
        quotas = share_classes(
            class_counts,
            fraction=plan.fraction or 1.0,
            seed=plan.seed,
            keeps_all_classes=not plan.allow_empty_classes,
        )
    drawn = np.zeros(len(is_kept), dtype=np.bool_)
    drawn[is_kept] = rank_in_class(kept_labels, scores, num_classes=num_classes) < quotas[kept_labels]
    return drawn


def _add_view(
    manifest: Manifest,
    shards: ShardSet,
    *,
    is_kept: Flags,
    labels: np.ndarray[Any, np.dtype[np.int32]],
    origin: Mapping[str, Any],
) -> Manifest:
    """Put the kept samples of a split into the manifest; tars without one are dropped from its list."""
    split = shards.split
    names, indexes = [], []
    for number, name in enumerate(split.shards):
        part = slice(int(shards.starts[number]), int(shards.starts[number + 1]))
        records: Records = np.array(shards.records[part][is_kept[part]])
        if not len(records):
            continue
        records["label"] = labels[part][is_kept[part]]
        names.append(name)
        indexes.append(
            ShardIndex(records=records, num_bytes=split.shard_bytes[number], sha256=split.shard_sha256[number])
        )
    return add_split(
        manifest,
        split=split.name,
        shard_folder=shards.place if shards.remote else str(Path(shards.place).resolve()),
        shards=names,
        indexes=indexes,
        origin=origin,
    )


def _describe_origin(plan: SubsetPlan, source: Manifest, split: Split, shards: ShardSet) -> dict[str, Any]:
    is_reduced = split.name == plan.reduced_split
    options: dict[str, Any] = {"classes": plan.classes}
    if is_reduced:
        options |= {"exclude": str(plan.exclude) if plan.exclude else None, "allow_unmatched": plan.allow_unmatched}
        options |= {"fraction": plan.fraction, "per_class": plan.per_class}
        if plan.fraction or plan.per_class:
            options |= {"seed": plan.seed, "allow_empty_classes": plan.allow_empty_classes}
    kept = {key: split.origin[key] for key in ("category_ids",) if key in split.origin}
    return kept | {
        "command": VIEW_COMMAND,
        "source": str(plan.source.resolve()),
        "source_name": source.name,
        "source_fingerprint": shards.fingerprint,
        "options": {key: value for key, value in options.items() if value not in (None, False)},
    }


def _publish(staging: Path, output: Path) -> None:
    """Move a complete set into its folder, the manifest last."""
    for path in sorted(staging.iterdir(), key=lambda path: path.name == MANIFEST_NAME):
        path.replace(output / path.name)
    sync_folder(output)

"""The decisions of a build put together: the source's listing, labels, orders, shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hornet.errors import UserError
from hornet.shards.build.instances import name_objects
from hornet.shards.build.listing import Listing, make_listing
from hornet.shards.build.masks import MaskRule, name_pixels, require_plain_images
from hornet.shards.build.plan import BuildPlan
from hornet.shards.build.selection import Labels, Uint32Array, assign_labels, shuffle, split_images
from hornet.shards.build.source import AnnotationFile, SeekableSource, Source
from hornet.shards.build.workplace import Workplace
from hornet.shards.build.writing import ShardTask
from hornet.shards.imagenet import find_label_space
from hornet.shards.label_space import LabelSpace
from hornet.shards.manifest import Manifest
from hornet.shards.processes import count_cores


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """All decisions of a build: which image becomes which sample of which shard."""

    listing: Listing
    """All images of the source."""
    labels: Labels
    """Label of each of the source's classes."""
    orders: Mapping[str, Uint32Array]
    """By split: its images' numbers in the listing, in the order in which they fill the shards."""
    workplace: Workplace
    """Folders that the processes of the build share."""
    tasks: tuple[ShardTask, ...]
    """One task for each shard, of all splits."""


def arrange(plan: BuildPlan, source: Source, there: Manifest | None) -> Arrangement:
    """List the source (or read the listing of an earlier attempt) and decide what goes where."""
    work = plan.work
    work.mkdir(parents=True, exist_ok=True)
    plan.spool_path.parent.mkdir(parents=True, exist_ok=True)
    workers = plan.num_workers or count_cores()
    listing = make_listing(
        source,
        work / "listing",
        spool=plan.spool_path,
        identity=identify(plan, source),
        num_workers=workers,
        damaged_parts=plan.damaged_parts,
    )
    if not listing.num_images:
        raise UserError(f"{plan.source}: holds no images{_list_remarks(listing)}")
    class_ids = listing.column("class_id")
    masks = source.masks if isinstance(source, SeekableSource) else None
    annotations = source.annotations if isinstance(source, SeekableSource) else None
    labels = _assign(
        plan,
        source,
        listing,
        given=_choose_label_space(plan, there),
        has_masks=masks is not None,
        annotations=annotations,
    )
    splits = split_images(
        labels.of_class[class_ids], plan.selection, split=plan.split, classes=labels.label_space.classes
    )
    if not any(len(numbers) for numbers in splits.values()):
        raise UserError(
            f"{plan.source}: none of its classes is in the label space {labels.label_space.name!r}; "
            "choose another with --classes"
        )
    orders = {name: shuffle(numbers, split=name, seed=plan.seed) for name, numbers in splits.items()}
    workplace = Workplace(
        output=plan.output,
        work=work,
        name=plan.name,
        listing=listing,
        part_paths=tuple(part.path for part in source.parts) if isinstance(source, SeekableSource) else None,
        spool=plan.spool_path,
        labels=labels.of_class,
        samples_per_shard=plan.samples_per_shard,
        image=plan.image,
        masks=None
        if masks is None
        else MaskRule(folder=masks, label_space=labels.label_space, reduce_zero_label=plan.reduce_zero_label),
        annotations=annotations,
    )
    tasks = [
        ShardTask(split=name, number=number)
        for name, order in orders.items()
        for number in range(-(-len(order) // plan.samples_per_shard))
    ]
    return Arrangement(listing=listing, labels=labels, orders=orders, workplace=workplace, tasks=tuple(tasks))


def _assign(
    plan: BuildPlan,
    source: Source,
    listing: Listing,
    *,
    given: LabelSpace | None,
    has_masks: bool,
    annotations: AnnotationFile | None,
) -> Labels:
    if has_masks or annotations is not None:
        require_plain_images(plan.image, plan.selection)
    if has_masks:
        return name_pixels(given, source=plan.source)
    if plan.reduce_zero_label:
        raise UserError(f"{plan.source}: --reduce-zero-label has no meaning without masks; leave it out")
    if annotations is not None:
        return name_objects(annotations, name=plan.name, there=given)
    return assign_labels(
        listing.progress.classes,
        np.bincount(listing.column("class_id"), minlength=len(listing.progress.classes)),
        name=plan.name,
        given=given,
        order=source.classes,
        selection=plan.selection,
    )


def identify(plan: BuildPlan, source: Source) -> dict[str, Any]:
    """Return what tells whether a listing is of this source."""
    paths = sorted({part.path for part in source.parts}) if isinstance(source, SeekableSource) else source.paths
    known_by = [plan.devkit] if plan.devkit else []
    if isinstance(source, SeekableSource) and source.annotations is not None:
        known_by.append(source.annotations.path)
    states = [
        [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in [*paths, *known_by]],
        source.classes,  # names of labels that are only numbers in the source
    ]
    digest = hashlib.sha256(json.dumps(states).encode()).hexdigest()
    rest = {} if plan.incomplete == "refuse" else {"incomplete": plan.incomplete}
    return rest | {
        "source": str(plan.source.resolve()),
        "layout": plan.layout,
        "split": plan.source_split,
        "labels": plan.source_labels,
        "damaged_parts": plan.damaged_parts,
        "files": digest,
    }


def _choose_label_space(plan: BuildPlan, there: Manifest | None) -> LabelSpace | None:
    given = find_label_space(plan.classes) if plan.classes else None
    if there is None or (given and given.fingerprint == there.label_space.fingerprint):
        return given if there is None else there.label_space
    if given:
        raise UserError(
            f"{there.path}: its label space {there.label_space.name!r} ({len(there.label_space)} classes, fingerprint "
            f"{there.label_space.fingerprint}) is not {given.name!r} ({len(given)} classes, fingerprint "
            f"{given.fingerprint}); all splits of a set share one: leave --classes out, or choose another output folder"
        )
    return there.label_space


def _list_remarks(listing: Listing) -> str:
    remarks = listing.progress.remarks
    return f" ({'; '.join(remarks[:3])})" if remarks else ""

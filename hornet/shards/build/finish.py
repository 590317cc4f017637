"""The end of a build: what the processes recorded -> indexes, notes, manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hornet.durable import write_json_lines
from hornet.errors import UserError
from hornet.shards.build.arrangement import Arrangement
from hornet.shards.build.plan import BuildPlan, BuildReport
from hornet.shards.build.selection import Labels
from hornet.shards.build.writing import read_record, shard_name
from hornet.shards.check.image_check import MIN_EDGE_PIXELS
from hornet.shards.manifest import write_manifest
from hornet.shards.split_writing import open_set, put_split


def finish_build(plan: BuildPlan, arrangement: Arrangement) -> BuildReport:
    """Collect what the processes recorded; the manifest comes last, with what others put into it meanwhile.

    Raises UserError if that is a split of ours, or one with another label space.
    """
    labels = arrangement.labels
    manifest = open_set(plan.output, name=plan.name, label_space=labels.label_space)
    for split in plan.splits:
        if split in manifest.splits:
            raise UserError(f"{manifest.path}: split {split!r} came during the build; choose another --split")
    totals: Counter[str] = Counter()
    mended = num_small = 0
    paths = []
    for split in plan.splits:
        tasks = [task for task in arrangement.tasks if task.split == split]
        records = [read_record(arrangement.workplace, task) for task in tasks]
        notes = [
            {**note, "class": arrangement.listing.progress.classes[note["class_id"]], "action": action}
            for record in records
            for action, listed in (("dropped", record.dropped), ("mended", record.mended))
            for note in listed
        ]
        paths += _write_notes(plan, split, notes)
        dropped = Counter(note["kind"] for note in notes if note["action"] == "dropped")
        totals += dropped
        num_small += sum(record.num_small for record in records)
        mended += sum(note["action"] == "mended" for note in notes)
        kept = [(task, record.index) for task, record in zip(tasks, records, strict=True) if len(record.index.records)]
        if not kept:
            raise UserError(f"{plan.source}: none of the images of split {split!r} can be used; see {paths[-1]}")
        manifest = put_split(
            manifest,
            split=split,
            shard_folder=".",
            shards=[shard_name(plan.name, task) for task, _ in kept],
            indexes=[index for _, index in kept],
            origin=_describe_origin(plan, arrangement, notes, dropped),
        )
    write_manifest(manifest)
    return BuildReport(
        manifest=manifest,
        dropped=totals,
        mended=mended,
        notes=tuple(paths),
        remarks=(*_remark(labels, num_small), *arrangement.listing.progress.remarks),
    )


def _describe_origin(
    plan: BuildPlan, arrangement: Arrangement, notes: list[dict[str, Any]], dropped: Mapping[str, int]
) -> dict[str, Any]:
    annotations = arrangement.workplace.annotations
    ids = {} if annotations is None else {"category_ids": list(annotations.category_ids)}
    return ids | {
        "command": "build",
        "plan": plan.describe(),
        "num_listed": arrangement.listing.num_images,
        "dropped": dict(sorted(dropped.items())),
        "mended": sum(note["action"] == "mended" for note in notes),
        "dropped_classes": dict(sorted(arrangement.labels.dropped.items())),
    }


def _write_notes(plan: BuildPlan, split: str, notes: list[dict[str, Any]]) -> list[Path]:
    if not notes:
        return []
    path = plan.output / f"{plan.name}-{split}-notes.jsonl"
    keys = ("action", "kind", "part", "name", "class", "reason")
    write_json_lines(path, [{key: note[key] for key in keys} for note in notes])
    return [path]


def _remark(labels: Labels, num_small: int) -> list[str]:
    remarks = []
    if labels.dropped:
        first, reason = next(iter(labels.dropped.items()))
        remarks.append(f"{len(labels.dropped)} classes were left out; the first: {first}, {reason}")
    if labels.empty:
        remarks.append(
            f"{len(labels.empty)} of the {len(labels.label_space)} classes have no images; first: {labels.empty[0]}"
        )
    if num_small:
        remarks.append(
            f"{num_small} images have an edge of fewer than {MIN_EDGE_PIXELS} pixels and are in the set (`verify` "
            f"names them); --min-short-edge {MIN_EDGE_PIXELS} leaves them out"
        )
    return remarks

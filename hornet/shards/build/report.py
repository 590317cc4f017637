"""A build in words: before (`--dry-run`: bytes, shards, hours) and after (what was dropped, and why)."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np

from hornet.quantities import format_bytes
from hornet.seeding import permute
from hornet.shards.build.arrangement import Arrangement
from hornet.shards.build.build import open_and_arrange, open_plan_source
from hornet.shards.build.image import DroppedImageError, prepare_image
from hornet.shards.build.known_damage import count_known
from hornet.shards.build.plan import BuildPlan, BuildReport
from hornet.shards.build.source import SeekableSource, StreamedSource
from hornet.shards.build.workplace import read_content
from hornet.shards.processes import count_cores
from hornet.shards.summary import describe_set

NUM_SAMPLED = 256
NUM_REMARKS = 5


@dataclass(kw_only=True)
class _Trial:
    """Counts, bytes and seconds of the images that a dry run has tried."""

    images: int = 0
    dropped: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    read_seconds: float = 0.0
    work_seconds: float = 0.0


def describe_build(report: BuildReport) -> str:
    """Return what a finished build says."""
    lines = [describe_set(report.manifest)]
    if report.was_complete:
        return "\n".join([*lines, "built        before, by the same command; nothing was done"])
    total = sum(report.dropped.values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(report.dropped.items()))
    lines.append(f"dropped      {total} images" + (f" ({kinds})" if kinds else ""))
    if report.mended:
        lines.append(f"mended       {report.mended} images")
    lines += [f"listed in    {path}" for path in report.notes]
    known = count_known(report.notes)
    if known:
        lines.append(f"known        {known} of the dropped images are damaged in every copy of ImageNet")
    return "\n".join(lines + _shorten(report.remarks))


def describe_plan(plan: BuildPlan) -> str:
    """List the source, try some images, and say what the build will take; the build goes on from this listing."""
    source = open_plan_source(plan)
    if not isinstance(source, SeekableSource):
        return _describe_streamed(plan, source)
    arrangement = open_and_arrange(plan, source)
    trial = _try_images(plan, arrangement)
    sizes = arrangement.listing.column("size")
    counts = np.bincount(arrangement.listing.column("class_id"))
    num_images = sum(len(order) for order in arrangement.orders.values())
    smallest, median, largest = int(counts.min()), int(np.median(counts)), int(counts.max())
    lines = [
        f"source       {plan.source}: {arrangement.listing.num_images} images, {format_bytes(int(sizes.sum()))}, in "
        f"{len(counts)} classes of {smallest} to {largest} (median {median})",
        f"label space  {arrangement.labels.label_space.name}, {len(arrangement.labels.label_space)} classes, "
        f"{arrangement.labels.label_space.fingerprint[:16]}; {len(arrangement.labels.dropped)} classes left out",
    ]
    bytes_each = trial.bytes_out / max(1, trial.images)
    for split, order in arrangement.orders.items():
        shards = -(-len(order) // plan.samples_per_shard)
        shard_bytes = bytes_each * min(plan.samples_per_shard, len(order))
        lines.append(f"split        {split}: {len(order)} images in {shards} shards of {format_bytes(shard_bytes)}")
    lines += _describe_effort(plan, trial, num_images)
    return "\n".join(lines + _shorten(arrangement.listing.progress.remarks) + [_next(plan)])


def _describe_streamed(plan: BuildPlan, source: StreamedSource) -> str:
    """Say what can be said without reading the whole source: it cannot be entered in the middle."""
    trial = _Trial()
    contents = (content for part in source.stream() for _, _, content in part.images)
    start = time.perf_counter()
    for content in islice(contents, NUM_SAMPLED):
        trial.read_seconds += time.perf_counter() - start
        _try_one(plan, content, trial)
        start = time.perf_counter()
    stored = sum(path.stat().st_size for path in source.paths)
    estimate = round(stored / max(1.0, trial.bytes_in / max(1, trial.images)))
    lines = [
        f"source       {plan.source}: {format_bytes(stored)} that can only be read from front to end, about {estimate} "
        f"images by the size of the first {trial.images}; classes are known after one pass",
        f"spool        {format_bytes(stored)} in {plan.spool_path.parent} until the shards are written",
    ]
    return "\n".join([*lines, *_describe_effort(plan, trial, estimate), _next(plan)])


def _describe_effort(plan: BuildPlan, trial: _Trial, num_images: int) -> list[str]:
    workers = plan.num_workers or count_cores()
    each = max(1, trial.images)
    hours = (trial.read_seconds + trial.work_seconds) / each * num_images / workers / 3600
    folder = next(folder for folder in (plan.output, *plan.output.resolve().parents) if folder.exists())
    free = shutil.disk_usage(folder).free
    needed = trial.bytes_out / each * num_images
    return [
        f"disk         {format_bytes(needed)} for the shards, {format_bytes(free)} are free in {folder}"
        + ("" if needed < free else ": TOO LITTLE"),
        f"time         {hours:.2g} hours with {workers} workers: {1000 * trial.read_seconds / each:.2g} ms to read and "
        f"{1000 * trial.work_seconds / each:.2g} ms to work on an image, measured on {trial.images}",
    ]


def _try_images(plan: BuildPlan, arrangement: Arrangement) -> _Trial:
    trial = _Trial()
    numbers = np.concatenate(list(arrangement.orders.values()))
    arrangement.listing.open()
    descriptors: dict[Path, int] = {}
    for position in permute(len(numbers), "dry run", plan.seed)[:NUM_SAMPLED].tolist():
        listed = arrangement.listing.read(int(numbers[position]))
        start = time.perf_counter()
        content = read_content(arrangement.workplace, listed, descriptors)
        trial.read_seconds += time.perf_counter() - start
        _try_one(plan, content, trial)
    return trial


def _try_one(plan: BuildPlan, content: bytes, trial: _Trial) -> None:
    start = time.perf_counter()
    trial.images += 1
    trial.bytes_in += len(content)
    try:
        trial.bytes_out += len(prepare_image(content, plan.image).content) + 2048  # headers, label, padding
    except DroppedImageError:
        trial.dropped += 1
    trial.work_seconds += time.perf_counter() - start


def _shorten(remarks: tuple[str, ...] | list[str]) -> list[str]:
    rest = [f"remark       and {len(remarks) - NUM_REMARKS} more"] if len(remarks) > NUM_REMARKS else []
    return list(chain((f"remark       {remark}" for remark in remarks[:NUM_REMARKS]), rest))


def _next(plan: BuildPlan) -> str:
    return f"next         the same command without --dry-run; {plan.work} keeps the listing"

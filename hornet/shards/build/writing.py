"""The work of one process of `build`: a shard's images, read from where they are, into its tar.

A shard is finished when its record stands in the working folder; the record comes after the tar.
"""

from __future__ import annotations

import errno
import io
import json
import os
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import numpy as np

from hornet.durable import write_bytes
from hornet.errors import UserError
from hornet.shards.build.image import MAX_CONTENT_BYTES, DroppedImageError, prepare_image
from hornet.shards.build.instances import prepare_instances
from hornet.shards.build.keys import make_key
from hornet.shards.build.listing import ListedImage
from hornet.shards.build.masks import describe_turn, prepare_mask
from hornet.shards.build.tar_writer import EncodedSample, write_shard
from hornet.shards.build.workplace import Workplace, gives_nothing, open_file, read_patiently
from hornet.shards.check.image_check import MIN_EDGE_PIXELS
from hornet.shards.index import RECORD, ShardIndex

NUM_READ_AHEAD = 32  # images the system is told of before they are read
COUNT_EVERY = 16  # images between two reports of progress
MAX_UNREADABLE_IN_A_ROW = 8
"""In a random order so many are no bad places of a disk: a server is away (as a soft mount of NFS says it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """One shard to write, as a process of the build gets it."""

    split: str
    """Name of the split that the shard belongs to."""
    number: int
    """Its number in the split."""


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """What became of a shard's images."""

    index: ShardIndex
    """Of the tar; empty if every image was dropped, then there is no tar."""
    dropped: tuple[dict[str, Any], ...] = ()
    """part, name, class_id, kind, reason of each image left out."""
    mended: tuple[dict[str, Any], ...] = ()
    """part, name, class_id, what was done, of each that was damaged."""
    num_small: int = 0
    """Images in the tar with an edge of fewer than MIN_EDGE_PIXELS."""


@dataclass
class _Process:
    """The state of one process."""

    workplace: Workplace
    done: Synchronized[int]
    descriptors: dict[Path, int] = field(default_factory=dict)
    num_unreadable_in_a_row: int = 0


_process: _Process | None = None


def start_process(workplace: Workplace, done: Synchronized[int]) -> None:
    """Make this process ready for `build_shard`; `done` counts images over all processes."""
    global _process
    workplace.listing.open()
    _process = _Process(workplace, done)


def shard_name(name: str, task: ShardTask) -> str:
    """Return the tar's file name."""
    return f"{name}-{task.split}-{task.number:06d}.tar"


def order_path(work: Path, split: str) -> Path:
    """Return where the order of a split's images is kept."""
    return work / f"order-{split}.npy"


def record_path(work: Path, task: ShardTask) -> Path:
    """Return where the record of a finished shard is kept."""
    return work / f"{task.split}-{task.number:06d}.npz"


RECORDS = "*.npz"  # what `record_path` matches


def is_finished(workplace: Workplace, task: ShardTask) -> bool:
    """Whether an earlier attempt finished the shard."""
    return record_path(workplace.work, task).exists()


def build_shard(task: ShardTask) -> None:
    """Write one shard and its record."""
    assert _process is not None
    workplace = _process.workplace
    order = np.load(order_path(workplace.work, task.split), mmap_mode="r")
    numbers = order[
        task.number * workplace.samples_per_shard : (task.number + 1) * workplace.samples_per_shard
    ].tolist()
    dropped: list[dict[str, Any]] = []
    mended: list[dict[str, Any]] = []
    small: list[ListedImage] = []
    samples = _encode(_process, _read(_process, numbers), dropped, mended, small)
    first = next(samples, None)
    if first is None:
        index = ShardIndex(records=np.empty(0, RECORD), num_bytes=0, sha256=None)
    else:
        index = write_shard(workplace.output / shard_name(workplace.name, task), chain([first], samples))
    record = ShardRecord(index=index, dropped=tuple(dropped), mended=tuple(mended), num_small=len(small))
    write_record(record_path(workplace.work, task), record)


def read_record(workplace: Workplace, task: ShardTask) -> ShardRecord:
    """Return what `build_shard` recorded of a shard that is done."""
    with np.load(record_path(workplace.work, task), allow_pickle=False) as arrays:
        notes = json.loads(arrays["notes"].tobytes())
        records = arrays["records"]
    index = ShardIndex(records=records, num_bytes=notes["num_bytes"], sha256=notes["sha256"])
    return ShardRecord(
        index=index,
        dropped=tuple(notes["dropped"]),
        mended=tuple(notes["mended"]),
        num_small=notes.get("num_small", 0),  # not there in a build that was stopped before it was counted
    )


def write_record(path: Path, record: ShardRecord) -> None:
    """Keep what became of a shard's images; the shard counts as finished from then on."""
    index = record.index
    notes = {
        "num_bytes": index.num_bytes,
        "sha256": index.sha256,
        "dropped": record.dropped,
        "mended": record.mended,
        "num_small": record.num_small,
    }
    buffer = io.BytesIO()
    np.savez(buffer, records=index.records, notes=np.frombuffer(json.dumps(notes).encode(), np.uint8))
    write_bytes(path, buffer.getvalue())


def _read(process: _Process, numbers: list[int]) -> Iterator[tuple[ListedImage, bytes | DroppedImageError]]:
    """Yield the images with their contents, in order, with some of the following ones announced to the system."""
    workplace = process.workplace
    numbers_left = iter(numbers)
    ahead: deque[ListedImage] = deque()
    for position in range(len(numbers)):
        for number in islice(numbers_left, NUM_READ_AHEAD - len(ahead)):
            ahead.append(workplace.listing.read(number))
            _announce(process, ahead[-1])
        listed = ahead.popleft()
        yield listed, _take(process, listed)
        if position % COUNT_EVERY == COUNT_EVERY - 1 or position == len(numbers) - 1:
            with process.done.get_lock():
                process.done.value += position % COUNT_EVERY + 1


def _take(process: _Process, listed: ListedImage) -> bytes | DroppedImageError:
    workplace = process.workplace
    if listed.size > MAX_CONTENT_BYTES:
        return DroppedImageError("undecodable", f"{listed.size} bytes; {MAX_CONTENT_BYTES} are the limit")
    try:
        content = read_patiently(workplace, listed, process.descriptors)
    except OSError as error:
        process.num_unreadable_in_a_row += 1
        is_in_a_row = process.num_unreadable_in_a_row >= MAX_UNREADABLE_IN_A_ROW
        if error.errno == errno.EIO and not is_in_a_row and not gives_nothing(workplace, listed):
            return DroppedImageError("unreadable", "the disk cannot read it")
        raise UserError(  # a disk or mount that went away is not an image's fault
            f"{workplace.find_file(listed)}: {listed.name!r} cannot be read ({error.strerror}); start again when it "
            "can, finished shards stay"
        ) from error
    process.num_unreadable_in_a_row = 0
    return content


def _announce(process: _Process, listed: ListedImage) -> None:
    if listed.offset >= 0 and hasattr(os, "posix_fadvise"):
        with suppress(OSError):  # told when it is read
            descriptor = open_file(process.workplace.find_file(listed), process.descriptors)
            os.posix_fadvise(descriptor, listed.offset, listed.size, os.POSIX_FADV_WILLNEED)


def _encode(
    process: _Process,
    contents: Iterator[tuple[ListedImage, bytes | DroppedImageError]],
    dropped: list[dict[str, Any]],
    mended: list[dict[str, Any]],
    small: list[ListedImage],
) -> Iterator[EncodedSample]:
    workplace = process.workplace
    part_names = workplace.listing.progress.part_names
    for listed, content in contents:
        note = {"part": part_names[listed.part], "name": listed.name, "class_id": listed.class_id}
        turned = None
        try:
            if isinstance(content, DroppedImageError):
                raise content
            image = prepare_image(content, workplace.image)
            if workplace.masks is not None or workplace.annotations is not None:
                turned = describe_turn(image.content)
            mask = None if workplace.masks is None else prepare_mask(listed.name, image.size, workplace.masks)
            found = (
                None
                if workplace.annotations is None
                else prepare_instances(listed.name, image.size, workplace.annotations)
            )
        except DroppedImageError as error:
            reason = "; ".join(filter(None, (error.reason, turned)))
            dropped.append({**note, "kind": error.kind, "reason": reason})
            continue
        if min(image.size) < MIN_EDGE_PIXELS:
            small.append(listed)
        reasons = [reason for reason in (image.mended, found.mended if found else None, turned) if reason]
        if reasons:
            mended.append({**note, "kind": "mended", "reason": "; ".join(reasons)})
        labelled = mask or found
        yield EncodedSample(
            stem=make_key(part_names[listed.part], listed.name, listed.twin),
            extension=image.extension,
            image=image.content,
            label=labelled.label if labelled else int(workplace.labels[listed.class_id]),
            mask=mask.content if mask else None,
            instances=found.content if found else None,
        )

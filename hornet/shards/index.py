"""The index of a split: for each sample, where its image stands in which tar, its label and its checksum.

A `.npy` file of 20 bytes a sample, memory-mapped by every process: 0.3 GB for the 14.2 million samples of ImageNet-22K.

Not here: which members make a sample (`sample_parts.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from isal.isal_zlib import crc32

from hornet.errors import UserError
from hornet.shards.sample_label import NO_LABEL, LabelError, MissingLabelError, max_label_bytes, parse_label
from hornet.shards.sample_parts import (
    MAX_IMAGE_BYTES,
    MAX_NUMBERED_CLASSES,
    PassedMembers,
    SampleRule,
    choose_parts,
    explain_missing,
)
from hornet.shards.tar import LocalTar, Member, TarError, TarSource, TarStream, check_end, read_member, split_name

RECORD = np.dtype([("offset", "<u8"), ("span", "<u4"), ("label", "<i4"), ("crc", "<u4")])
"""offset: byte of the image member's first header block; span: bytes from there to the end of the image;
label: from the `.cls` or `.json` member; crc: zlib.crc32 of the image's bytes, or UNKNOWN_CRC."""

UNKNOWN_CRC = 0
"""Not known, as the payload was not read; not checked on reading. One image in 2^32 truly has it and goes unchecked."""

ORDINARY = SampleRule()

Records = npt.NDArray[np.void]


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """What one pass over a tar found."""

    records: Records
    """One RECORD a sample, in the order of the tar."""
    num_bytes: int
    """Size of the tar."""
    sha256: str | None
    """Of the whole tar, hex; None if its payload was not read."""
    num_skipped: int = 0
    """Samples that stand in the tar but not in `records`: their label is -1 in the key of the .json member."""
    incomplete: tuple[tuple[str, str], ...] = ()
    """Key and reason of samples that are not in `records` since something of them is missing."""
    passed: PassedMembers = field(default_factory=PassedMembers)
    """Members that belong to no sample."""


class _Image(NamedTuple):
    offset: int
    span: int
    crc: int
    num_bytes: int
    name: str


class _Label(NamedTuple):
    value: int | None
    name: str
    offset: int
    problem: str


@dataclass(slots=True)
class _Found:
    """The members of one key, as far as met; images and labels by their name without the last extension."""

    offset: int
    images: dict[str, _Image] = field(default_factory=dict)
    labels: dict[str, _Label] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def index_tar(path: Path, *, checksums: bool = True, rule: SampleRule = ORDINARY) -> ShardIndex:
    """Index the samples of a tar. Members other than images and labels are passed over, and counted.

    With `checksums`, every byte is read, else only headers and labels.

    Raises UserError, with the tar's name and the byte, if the tar is damaged, cut or holds half a sample.
    """
    try:
        with LocalTar(path, sparsely=not checksums) as source:
            return index_source(source, name=str(path), checksums=checksums, rule=rule)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def index_source(source: TarSource, *, name: str, checksums: bool, rule: SampleRule = ORDINARY) -> ShardIndex:
    """As `index_tar`, for bytes from anywhere; `name` is for messages."""
    stream = TarStream(source, hashed=checksums)
    passed = PassedMembers()
    found: dict[str, _Found] = {}
    try:
        for member in walk(stream):
            _take(found, member, stream, rule, passed)
        rows, incomplete = _complete_all(found, rule, passed)
    except TarError as error:
        raise UserError(f"{name}: {error}") from error
    if not rows and not incomplete:
        members = passed.describe() or "nothing"
        raise UserError(
            f"{name}: holds no sample (an image .{' .'.join(rule.images)} and a .{rule.label}), but {members}"
        )
    records = np.array(sorted(rows), dtype=RECORD)
    kept = records if rule.label_key is None else records[records["label"] != NO_LABEL]
    return ShardIndex(
        records=kept,
        num_bytes=source.size,
        sha256=stream.sha256,
        num_skipped=len(records) - len(kept),
        incomplete=tuple(incomplete),
        passed=passed,
    )


def walk(stream: TarStream) -> Iterator[Member]:
    """Yield the members of a tar up to its end, each where its payload begins; what is not read of that is skipped.

    Raises TarError if the tar is cut or damaged.
    """
    while (member := read_member(stream.read, offset=stream.position)) is not None:
        end = member.payload_offset + member.size + member.padding
        if end > stream.size:
            raise TarError(
                member.offset,
                f"member {member.name!r} should reach byte {member.payload_offset + member.size}, "
                f"but the file ends at {stream.size}; it was cut",
            )
        yield member
        stream.skip(end - stream.position)
    check_end(stream.read, offset=stream.position)


def _take(found: dict[str, _Found], member: Member, stream: TarStream, rule: SampleRule, passed: PassedMembers) -> None:
    """Note what a member contributes; read of its payload what is needed."""
    key, extension = split_name(member.name)
    ending = extension.rpartition(".")[2]
    is_image = ending in rule.images
    if not is_image and ending != rule.label:
        if member.is_file:
            passed.add(member.name)
            if key in found:
                found[key].others.append(member.name)
            elif extension:
                found[key] = _Found(member.offset, others=[member.name])
        return
    check_plain(member)
    parts = found.get(key)
    if parts is None:
        parts = found[key] = _Found(member.offset)
    base = member.name[: -len(ending) - 1]
    if not is_image:
        if base in parts.labels:
            raise TarError(member.offset, f"a second label of {base!r}")
        parts.labels[base] = _take_label(member, stream, rule)
        return
    if base in parts.images:
        raise TarError(member.offset, f"a second image of {base!r} ({member.name!r})")
    if member.size > MAX_IMAGE_BYTES:
        limit = f"{MAX_IMAGE_BYTES >> 20} MiB is the limit of an image"
        raise TarError(member.offset, f"member {member.name!r} has {member.size} bytes; {limit}")
    span = member.payload_offset + member.size - member.offset
    crc = crc32(stream.read(member.size)) if stream.is_hashed else UNKNOWN_CRC
    parts.images[base] = _Image(member.offset, span, crc, member.size, member.name)


def check_plain(member: Member) -> None:
    """Refuse a link where an image or a label should be; raises TarError."""
    if not member.is_file:
        raise TarError(
            member.offset,
            f"member {member.name!r} is not a plain file; write the tar with files for links "
            "(`tar --dereference --hard-dereference`)",
        )


def _take_label(member: Member, stream: TarStream, rule: SampleRule) -> _Label:
    try:
        return _Label(read_label(member, stream, rule), member.name, member.offset, "")
    except TarError as error:
        if not isinstance(error.__cause__, MissingLabelError):
            # It may belong to no sample (a.json beside a.meta.json), so it is an error only if it is chosen.
            return _Label(None, member.name, member.offset, error.problem)
        return _Label(NO_LABEL, member.name, member.offset, error.problem)


def read_label(member: Member, stream: TarStream, rule: SampleRule) -> int:
    """Read the payload of a label's member, where `stream` stands; raises TarError, from a LabelError."""
    content = stream.read(min(member.size, max_label_bytes(rule.label_key) + 1))
    try:
        label = parse_label(content, rule.label_key, rule.label_names)
    except LabelError as error:
        raise TarError(member.offset, f"{member.name!r} {error}") from error
    if rule.num_classes is None and label >= MAX_NUMBERED_CLASSES:
        raise TarError(
            member.offset,
            f"{member.name!r} holds {label}: labels without class names are numbered from 0, up to "
            f"{MAX_NUMBERED_CLASSES} classes; if these are ids, write the numbers of the classes instead, else name "
            "the classes with --classes NAME|FILE",
        )
    return label


def _complete_all(
    found: dict[str, _Found], rule: SampleRule, passed: PassedMembers
) -> tuple[list[tuple[int, int, int, int]], list[tuple[str, str]]]:
    rows, incomplete = [], []
    for key, parts in found.items():
        if not parts.images and not parts.labels:
            continue
        try:
            image, label = choose_parts(key, parts.images, parts.labels)
        except LabelError as error:
            raise TarError(parts.offset, str(error)) from error
        for name in [part.name for base, part in parts.images.items() if base != image]:
            passed.add(name)
            parts.others.append(name)
        for name in [part.name for base, part in parts.labels.items() if base != label]:
            passed.add(name)
            parts.others.append(name)
        reason = _find_gap(key, parts, rule, image, label)
        if reason is None:
            assert image is not None
            assert label is not None
            offset, span, crc, *_ = parts.images[image]
            value = parts.labels[label].value
            assert value is not None
            rows.append((offset, span, value, crc))
        elif rule.incomplete == "refuse":
            raise TarError(parts.offset, reason)
        else:
            incomplete.append((key, reason.partition(";")[0]))
    return rows, incomplete


def _find_gap(key: str, parts: _Found, rule: SampleRule, image: str | None, label: str | None) -> str | None:
    """Return what a sample lacks; None if it is whole. Raises TarError for labels that cannot be read."""
    if image is None or label is None:
        return explain_missing(key, rule, parts.others, has_image=image is not None)
    found = parts.labels[label]
    if found.value is None:
        raise TarError(found.offset, found.problem)
    if found.problem or (found.value == NO_LABEL and rule.label_key is None and rule.incomplete == "skip"):
        return found.problem or f"{found.name!r} holds -1"
    if parts.images[image].num_bytes == 0 and not rule.for_build:
        return f"{parts.images[image].name!r} has 0 bytes; leave such samples out with `--incomplete skip`"
    return None

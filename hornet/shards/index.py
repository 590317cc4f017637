"""The index of a split: for each sample, where its image stands in which tar, its label and its checksum.

A `.npy` file of 20 bytes a sample, memory-mapped by every process: 0.3 GB for the 14.2 million samples of ImageNet-22K.

Not here: the fast way through the headers of ordinary tars (`header_scan.py`); it gives what `index_source` gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from isal.isal_zlib import crc32

from hornet.errors import UserError
from hornet.shards.indexing.header_scan import scan_headers
from hornet.shards.sample_label import LABEL_EXTENSION as LABEL_EXTENSION
from hornet.shards.sample_label import NO_LABEL, LabelError, label_extension, max_label_bytes, parse_label, parse_labels
from hornet.shards.tar import Member, TarError, check_end, read_member, split_name
from hornet.shards.tar_source import LocalTar, TarSource, TarStream

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")

RECORD = np.dtype([("offset", "<u8"), ("span", "<u4"), ("label", "<i4"), ("crc", "<u4")])
"""offset: byte of the image member's first header block; span: bytes from there to the end of the image;
label: from the `.cls` or `.json` member; crc: zlib.crc32 of the image's bytes, or UNKNOWN_CRC."""

UNKNOWN_CRC = 0
"""Not known, as the payload was not read; not checked on reading. One image in 2^32 truly has it and goes unchecked."""

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


@dataclass
class _Found:
    """The parts of one stem, as far as met."""

    image: tuple[int, int, int] | None = None
    label: int | None = None
    offset: int = 0


def index_tar(path: Path, *, checksums: bool = True, label_key: str | None = None) -> ShardIndex:
    """Index the samples of a tar. Members other than images and labels are passed over.

    With `checksums`, every byte is read, else only headers and labels. `label_key` is the key of the .json members
    that holds the label, where -1 leaves the sample out; None stands for the .cls members.

    Raises UserError, with the tar's name and the byte, if the tar is damaged, cut or holds half a sample.
    """
    try:
        with LocalTar(path, sparsely=not checksums) as source:
            quick = None if checksums else _scan(source, label_key)
            return quick or index_source(source, name=str(path), checksums=checksums, label_key=label_key)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def index_source(source: TarSource, *, name: str, checksums: bool, label_key: str | None) -> ShardIndex:
    """As `index_tar`, for bytes from anywhere, header by header; `name` is for messages."""
    stream = TarStream(source, hashed=checksums)
    try:
        found = _walk(stream, label_key)
        rows = [_complete(stem, parts, label_key) for stem, parts in found.items()]
    except TarError as error:
        raise UserError(f"{name}: {error}") from error
    if not rows:
        extension = label_extension(label_key)
        raise UserError(f"{name}: holds no sample (an image .{' .'.join(IMAGE_EXTENSIONS)} and a .{extension})")
    records = np.array(sorted(rows), dtype=RECORD)
    return _keep_labelled(records, label_key=label_key, num_bytes=source.size, sha256=stream.sha256)


def _scan(source: LocalTar, label_key: str | None) -> ShardIndex | None:
    """Index an ordinary tar the fast way; None if there is anything unusual about it."""
    found = scan_headers(
        source,
        image_extensions=IMAGE_EXTENSIONS,
        label_extension=label_extension(label_key),
        max_label_bytes=max_label_bytes(label_key),
    )
    if found is None:
        return None
    records = np.zeros(len(found.offsets), RECORD)
    records["offset"], records["span"] = found.offsets, found.spans
    try:
        records["label"] = parse_labels(found.labels, label_key)
    except LabelError:
        return None
    return _keep_labelled(records, label_key=label_key, num_bytes=source.size, sha256=None)


def _keep_labelled(records: Records, *, label_key: str | None, num_bytes: int, sha256: str | None) -> ShardIndex:
    kept = records if label_key is None else records[records["label"] != NO_LABEL]
    return ShardIndex(records=kept, num_bytes=num_bytes, sha256=sha256, num_skipped=len(records) - len(kept))


def _walk(stream: TarStream, label_key: str | None) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    while True:
        member = read_member(stream.read, offset=stream.position)
        if member is None:
            check_end(stream.read, offset=stream.position)
            return found
        end = check_payload(member, stream.size)
        _take(found, member, stream, label_key)
        stream.skip(end - stream.position)


def check_payload(member: Member, tar_size: int) -> int:
    """Return where the next header begins; raises TarError if the tar ends before."""
    end = member.payload_offset + member.size + member.padding
    if end > tar_size:
        raise TarError(
            member.offset,
            f"member {member.name!r} should reach byte {member.payload_offset + member.size}, "
            f"but the file ends at {tar_size}; it was cut",
        )
    return end


def _take(found: dict[str, _Found], member: Member, stream: TarStream, label_key: str | None) -> None:
    """Note what a member contributes; read of its payload what is needed."""
    stem, extension = split_name(member.name)
    is_label = extension == label_extension(label_key)
    if not is_label and extension not in IMAGE_EXTENSIONS:
        return
    if not member.is_file:
        raise TarError(member.offset, f"member {member.name!r} is not a plain file")
    parts = found.setdefault(stem, _Found(offset=member.offset))
    if is_label:
        if parts.label is not None:
            raise TarError(member.offset, f"a second label of {stem!r}")
        parts.label = read_label(member, stream, label_key)
        return
    if parts.image is not None:
        raise TarError(member.offset, f"a second image of {stem!r} ({member.name!r})")
    span = member.payload_offset + member.size - member.offset
    if span >= 2**32:
        raise TarError(member.offset, f"member {member.name!r} has {member.size} bytes; 4 GiB is the limit")
    crc = crc32(stream.read(member.size)) if stream.is_hashed else UNKNOWN_CRC
    parts.image = (member.offset, span, crc)


def read_label(member: Member, stream: TarStream, label_key: str | None) -> int:
    """Read the payload of a label's member, where `stream` stands; raises TarError."""
    try:
        return parse_label(stream.read(min(member.size, max_label_bytes(label_key) + 1)), label_key)
    except LabelError as error:
        raise TarError(member.offset, f"{member.name!r} {error}") from error


def _complete(stem: str, parts: _Found, label_key: str | None) -> tuple[int, int, int, int]:
    extension = label_extension(label_key)
    if parts.label is None:
        raise TarError(parts.offset, f"the image of {stem!r} has no .{extension}")
    if parts.image is None:
        raise TarError(parts.offset, f"the .{extension} of {stem!r} has no image")
    offset, span, crc = parts.image
    return offset, span, parts.label, crc

"""One shard: a plain tar, written together with its index and checksum, whole or not at all."""

from __future__ import annotations

import functools
import hashlib
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from isal.isal_zlib import crc32

from hornet.durable import replacing
from hornet.shards.index import RECORD, ShardIndex
from hornet.shards.instances import INSTANCES_EXTENSION
from hornet.shards.mask import MASK_EXTENSION
from hornet.shards.sample_label import LABEL_EXTENSION
from hornet.shards.tar import BLOCK_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSample:
    """What goes into a tar."""

    stem: str
    """Name of its members without the extension; no dots."""
    extension: str
    """Of the image: jpg, png or webp."""
    image: bytes
    """Content of the image's file."""
    label: int
    """In the set's label space."""
    mask: bytes | None = None
    """The class of each pixel, as a PNG (hornet/shards/mask.py); None where the image has one class."""
    instances: bytes | None = None
    """The objects of the image, as JSON (hornet/shards/instances.py); None where the image has one class."""


def write_shard(path: Path, samples: Iterable[EncodedSample]) -> ShardIndex:
    """Write a tar under a temporary name, then rename it. The same samples give the same bytes: no times, no owners.

    Raises OSError, for example if the disk is full.
    """
    with replacing(path) as temporary, temporary.open("wb", buffering=0) as file:
        return _write_members(file.fileno(), samples)


def _write_members(descriptor: int, samples: Iterable[EncodedSample]) -> ShardIndex:
    sha256 = hashlib.sha256()
    position = 0
    records = []
    for sample in samples:
        header = _header(f"{sample.stem}.{sample.extension}", len(sample.image))
        before = _label_member(sample) + header
        padding = bytes(-len(sample.image) % BLOCK_BYTES)
        offset = position + len(before) - len(header)
        span = len(header) + len(sample.image)
        records.append((offset, span, sample.label, crc32(sample.image)))
        position += _write(descriptor, [before, sample.image, padding, *_list_others(sample)], sha256)
    end = bytes(2 * BLOCK_BYTES + -(position + 2 * BLOCK_BYTES) % tarfile.RECORDSIZE)
    position += _write(descriptor, [end], sha256)
    return ShardIndex(records=np.array(records, dtype=RECORD), num_bytes=position, sha256=sha256.hexdigest())


def _write(descriptor: int, pieces: list[bytes], sha256: hashlib._Hash) -> int:
    """Write the pieces without gathering them first; a sample's 90 kB are copied once, by the system."""
    total = sum(map(len, pieces))
    written = os.writev(descriptor, pieces)
    while written < total:  # a full disk shows at the next write
        written += os.write(descriptor, b"".join(pieces)[written:])
    for piece in pieces:
        sha256.update(piece)
    return total


def _list_others(sample: EncodedSample) -> list[bytes]:
    pieces = []
    for extension, content in ((MASK_EXTENSION, sample.mask), (INSTANCES_EXTENSION, sample.instances)):
        if content is not None:
            header = _header(f"{sample.stem}.{extension}", len(content))
            pieces += [header, content, bytes(-len(content) % BLOCK_BYTES)]
    return pieces


def _label_member(sample: EncodedSample) -> bytes:
    label = b"%d" % sample.label
    return _header(f"{sample.stem}.{LABEL_EXTENSION}", len(label)) + label + bytes(BLOCK_BYTES - len(label))


@functools.cache
def _plain_header() -> bytes:
    """Return a header as tarfile writes it, to put names and sizes into."""
    info = tarfile.TarInfo()
    info.mode = 0o444
    return info.tobuf(tarfile.GNU_FORMAT)


def _header(name: str, size: int) -> bytes:
    """Return a plain header; in GNU format an extra one before it for names of over 100 bytes."""
    if len(name) <= tarfile.LENGTH_NAME and name.isascii() and size < 8**11:
        header = bytearray(_plain_header())
        header[: len(name)] = name.encode()
        header[124:135] = b"%011o" % size
        header[148:156] = b"        "
        header[148:155] = b"%06o\0" % sum(header)
        return bytes(header)
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o444
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")

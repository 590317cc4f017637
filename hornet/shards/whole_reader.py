"""Whole samples by their number, as webdataset's dictionaries; headers, keys and checksums are checked."""

from __future__ import annotations

import io
from functools import partial

from isal.isal_zlib import crc32

from hornet.shards.index import UNKNOWN_CRC
from hornet.shards.reader import ShardReader, UnreadableSampleError
from hornet.shards.tar import BLOCK_BYTES, Member, TarError, read_member
from hornet.shards.whole_index import name_member
from hornet.shards.whole_set import WholeSet

Fields = dict[str, str | bytes]
"""`__key__`, `__url__`, and the bytes of each member by its extension in lower case."""


def read_whole(reader: ShardReader, whole: WholeSet, sample: int) -> Fields:
    """Return a sample of `whole`, over whose `shards` `reader` is; a failed read is tried once more.

    Raises UnreadableSampleError, and UserError if a server does not answer.
    """
    return reader.try_twice(sample, lambda: reader.read_as(sample, partial(_parse, whole)))


def _parse(whole: WholeSet, sample: int, content: bytes) -> Fields:
    shards = whole.shards
    url = shards.locate(shards.shard_of(sample))
    record = shards.records[sample]
    offset, span = int(record["offset"]), int(record["span"])
    unnamed = f"{shards.stem_of(sample)}/@{offset}"
    if len(content) < span:
        raise UnreadableSampleError(unnamed, f"the tar ends within it, at byte {offset + len(content)}")
    fields: Fields = {}
    is_known = record["crc"] != UNKNOWN_CRC
    crc = position = 0
    stream = io.BytesIO(content)
    while position < span:
        member = _read_header(stream, position, offset=offset, key=unnamed)
        end = member.payload_offset - offset + member.size
        named = name_member(member.name) if member.is_file else None
        if named is not None:
            key, extension = named
            fields.setdefault("__key__", key)
            if fields["__key__"] != key or extension in fields or end > span:
                raise UnreadableSampleError(unnamed, "the tar holds other members here than when it was indexed")
            payload = content[member.payload_offset - offset : end]
            crc = crc32(payload, crc) if is_known else crc
            _check_image(whole, sample, member, payload)
            fields.setdefault("__url__", url)
            fields[extension] = payload
        position = end + member.padding
    if position - span >= BLOCK_BYTES or not fields:
        raise UnreadableSampleError(unnamed, "the tar holds other members here than when it was indexed")
    if is_known and record["crc"] != crc:
        raise UnreadableSampleError(
            f"{shards.stem_of(sample)}/{fields['__key__']!s}",
            f"checksum {crc:08x}, the index says {int(record['crc']):08x}: damaged bytes",
        )
    return fields


def _read_header(stream: io.BytesIO, position: int, *, offset: int, key: str) -> Member:
    stream.seek(position)
    try:
        member = read_member(stream.read, offset=offset + position)
    except TarError as error:
        raise UnreadableSampleError(key, str(error)) from error
    if member is None:
        raise UnreadableSampleError(key, "the tar ends here, and did not when it was indexed")
    return member


def _check_image(whole: WholeSet, sample: int, member: Member, payload: bytes) -> None:
    """Check the image, whose checksum the set's own index may know."""
    if whole.images is None or int(whole.images[sample]["offset"]) != member.offset:
        return
    known = int(whole.images[sample]["crc"])
    if known not in (crc32(payload), UNKNOWN_CRC):
        raise UnreadableSampleError(
            f"{whole.shards.stem_of(sample)}/{member.name}",
            f"checksum {crc32(payload):08x}, the index says {known:08x}: damaged bytes",
        )

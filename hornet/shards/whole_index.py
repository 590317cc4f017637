"""Where each whole sample of a tar stands, all its members, whatever they are: samples as webdataset groups them.

A sample is a run of plain files of one key; folders, links, `__meta__` files and names without an extension or that
begin with a dot are passed over. A tar of which webdataset would make something else in silence is refused.

Not here: images and labels (`index.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from isal.isal_zlib import crc32

from hornet.errors import UserError
from hornet.shards.index import RECORD, UNKNOWN_CRC, ShardIndex, walk
from hornet.shards.tar import SKIPPED_AT_ONCE_BYTES, TarError, TarSource, TarStream, split_name

MAX_SPAN = (1 << 32) - 1  # of the record's u4


@dataclass(slots=True)
class _Run:
    """Members of one key, one behind the other."""

    key: str
    offset: int
    stop: int
    crc: int
    extensions: set[str] = field(default_factory=set)


def index_whole_samples(source: TarSource, *, name: str, checksums: bool) -> ShardIndex:
    """Index the samples of a tar: of each, the bytes from its first header to the end of its last member.

    With `checksums` every byte is read, and `crc` is that of the members' contents, one after the other. `label` is 0:
    it is not looked for. Raises UserError, with the tar's `name` and the byte, if the tar is damaged, cut or empty.
    """
    stream = TarStream(source, hashed=checksums)
    try:
        runs = _walk(stream)
    except TarError as error:
        raise UserError(f"{name}: {error}") from error
    if not runs:
        raise UserError(f"{name}: holds no sample: no plain file KEY.EXTENSION; take it out of the list")
    rows = [(run.offset, run.stop - run.offset, 0, run.crc) for run in runs]
    return ShardIndex(records=np.array(rows, dtype=RECORD), num_bytes=source.size, sha256=stream.sha256)


def name_member(name: str) -> tuple[str, str] | None:
    """Return key and extension of a sample's member; None for what is passed over."""
    first = name.partition("/")[0]
    if len(first) >= 4 and first.startswith("__") and first.endswith("__"):
        return None
    key, extension = split_name(name)
    return (key, extension) if extension else None


def _walk(stream: TarStream) -> list[_Run]:
    runs: list[_Run] = []
    seen: set[str] = set()
    for member in walk(stream):
        named = name_member(member.name) if member.is_file else None
        if named is None:
            continue
        key, extension = named
        if not runs or runs[-1].key != key:
            if key in seen:
                raise TarError(
                    member.offset,
                    f"the members of {key!r} do not stand together, and webdataset would take them for two samples; "
                    "write the tar again, sorted by name",
                )
            seen.add(key)
            runs.append(_Run(key, member.offset, member.offset, UNKNOWN_CRC))
        run = runs[-1]
        if extension in run.extensions:
            raise TarError(member.offset, f"a second .{extension} of {key!r}; a sample holds one of each extension")
        run.extensions.add(extension)
        run.stop = member.payload_offset + member.size
        if run.stop - run.offset > MAX_SPAN:
            raise TarError(run.offset, f"the sample {key!r} has over 4 GiB, which is the limit; divide it")
        if stream.is_hashed:
            run.crc = _read_crc(stream, member.size, run.crc)
    return runs


def _read_crc(stream: TarStream, num_bytes: int, crc: int) -> int:
    while num_bytes > 0:
        content = stream.read(min(num_bytes, SKIPPED_AT_ONCE_BYTES))
        crc = crc32(content, crc)
        num_bytes -= len(content)
    return crc

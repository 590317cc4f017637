"""The headers of an ordinary tar, thousands at once: a loop that follows their sizes, then numpy over what it read.

Nothing is reported here: at the first thing that is not exactly as in an ordinary tar (a damaged header, a long name,
half a sample), `scan_headers` gives up, and the strict parser says what it is, or reads it. Tests hold the two equal.

Not here: what a header's bytes say (`header_fields.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hornet.shards.indexing.header_fields import PAX_BYTES, Bytes, Members, Numbers, describe_members
from hornet.shards.tar import BLOCK_BYTES, TarError, check_end
from hornet.shards.tar_source import LocalTar, TarStream

PLAIN_WINDOW_BYTES, PAX_WINDOW_BYTES = 3584, 6144
"""One read takes in the small members between two images: .json, .cls, three headers, with and without PAX headers."""
NUM_WINDOWS = 1024  # 3.5 to 6 MiB: headers stay in the processor's cache until they have been looked at
PLAIN_ROW_BYTES, PAX_ROW_BYTES = 2 * BLOCK_BYTES, PAX_BYTES + 2 * BLOCK_BYTES
"""A header and a block of the member's content, and before them a PAX header with its content."""

ZEROS = bytes(BLOCK_BYTES)


@dataclass(frozen=True, kw_only=True)
class FoundSamples:
    """The samples of a tar, in the order of their images."""

    offsets: Numbers
    """Byte of each image's first header block."""
    spans: Numbers
    """Bytes from there to the end of the image."""
    labels: Sequence[bytes]
    """Content of each label's member."""


class _UnusualError(Exception):
    """The tar needs the strict parser."""


def scan_headers(
    source: LocalTar, *, image_extensions: Sequence[str], label_extension: str, max_label_bytes: int
) -> FoundSamples | None:
    """Find the samples of an ordinary tar; None if anything about it is not ordinary. Raises OSError."""
    try:
        batches = [
            describe_members(*batch, images=image_extensions, labels=(label_extension,))
            for batch in _follow_sizes(source)
        ]
    except _UnusualError:
        return None
    known = [batch for batch in batches if batch is not None]
    if not known or len(known) < len(batches):
        return None
    return _pair(source, known, max_label_bytes)


def _follow_sizes(source: LocalTar) -> Iterator[tuple[Numbers, Numbers, Bytes]]:
    """Yield, for batches of members up to a correct end of the archive, what describe_members takes.

    The blocks are overwritten by the next batch.
    """
    preadv, descriptor = os.preadv, source.fileno()
    has_pax = source.read_at(156, 1) == b"x"  # as a rule before all members or none
    window_bytes, row_bytes = (PAX_WINDOW_BYTES, PAX_ROW_BYTES) if has_pax else (PLAIN_WINDOW_BYTES, PLAIN_ROW_BYTES)
    buffer = bytearray(NUM_WINDOWS * window_bytes)
    view = memoryview(buffer)
    windows = [[view[start : start + window_bytes]] for start in range(0, len(buffer), window_bytes)]
    blocks = np.frombuffer(buffer, np.uint8).reshape(-1, BLOCK_BYTES)
    offsets: list[int] = []
    places: list[int] = []
    window = position = place = 0  # position is in the tar, place in the buffer
    limit = -1  # of places: from there on, a member may not be wholly in the buffer
    while True:  # what is done here is done for every member, so numbers stand for names: PAX, BLOCK_BYTES, ...
        if place > limit:
            if window == len(windows):
                yield np.array(offsets, np.int64), np.array(places, np.int64) // BLOCK_BYTES, blocks
                offsets.clear()
                places.clear()
                window = 0
            place = window * window_bytes
            limit = place + preadv(descriptor, windows[window], position) - row_bytes
            window += 1
        header = place + 1024 if buffer[place + 156] == 120 else place
        if header > limit + row_bytes - 1024:
            raise _UnusualError
        try:
            size = int(buffer[header + 124 : header + 135], 8)  # other than 11 digits: describe_members notices
        except ValueError:
            break
        if size < 0:
            raise _UnusualError
        offsets.append(position)
        places.append(place)
        step = header - place + 512 + (size + 511 & -512)
        position += step
        place += step
    _check_end(source, position)
    if offsets:
        yield np.array(offsets, np.int64), np.array(places, np.int64) // BLOCK_BYTES, blocks


def _check_end(source: LocalTar, position: int) -> None:
    if source.read_at(position, BLOCK_BYTES) != ZEROS:
        raise _UnusualError
    stream = TarStream(source, hashed=False, position=position + BLOCK_BYTES)
    try:
        check_end(stream.read, offset=stream.position)
    except TarError as error:
        raise _UnusualError from error


def _pair(source: LocalTar, batches: Sequence[Members], max_label_bytes: int) -> FoundSamples | None:
    """Put each image and its label together; None unless they stand side by side, one of each for a stem."""
    offsets, payloads, sizes, is_label = (
        np.concatenate([getattr(batch, name) for batch in batches])
        for name in ("offsets", "payload_offsets", "sizes", "is_label")
    )
    stems = [stem for batch in batches for stem in batch.stems]
    if not stems or stems[0::2] != stems[1::2] or len(set(stems)) != len(stems) // 2:
        return None
    pairs = is_label.reshape(-1, 2)
    if (pairs[:, 0] == pairs[:, 1]).any():
        return None
    spans = (payloads + sizes - offsets)[~is_label]
    if spans.max() >= 2**32 or sizes[is_label].max() > max_label_bytes:
        return None
    labels = [content for batch in batches for content in batch.label_contents]
    for number in np.flatnonzero(sizes[is_label] > BLOCK_BYTES):
        labels[number] = source.read_at(int(payloads[is_label][number]), int(sizes[is_label][number]))
    return FoundSamples(offsets=offsets[~is_label], spans=spans, labels=labels)

"""Any sample of a split by its number: by one seek or one request, its header and checksum checked."""

from __future__ import annotations

import errno
import io
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from isal.isal_zlib import crc32

from hornet.shards.index import UNKNOWN_CRC
from hornet.shards.remote.download import Downloader
from hornet.shards.remote.files import RemoteFiles
from hornet.shards.shard_set import ShardSet
from hornet.shards.tar import TarError, read_member, split_name

Read = TypeVar("Read")

MAX_OPEN_SHARDS = 256  # a process; well below the usual limit of 1,024 open files

PAUSES_SECONDS = (1.0, 4.0, 15.0, 30.0)
"""Before each further try where the disk itself gave an error: servers come back, which costs less than a run's end."""
LASTING = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR)
"""Errors of a disk that do not pass."""
PROBE_BYTES = 4096
"""Read elsewhere in a tar, to know a bad place from a disk that is away."""


@dataclass(frozen=True, kw_only=True)
class RawSample:
    """One sample as it stands in the tar."""

    key: str
    """`SHARD/STEM`."""
    label: int
    """In the set's label space."""
    image: bytes
    """The encoded image; its checksum agrees with the index, if that has one."""


class UnreadableSampleError(Exception):
    """A sample whose bytes are not those the index describes, or cannot be read."""

    def __init__(self, key: str, reason: str) -> None:
        self.key = key
        self.reason = reason
        super().__init__(f"{key}: {reason}")


class UnreadableDiskError(UnreadableSampleError):
    """A sample that the disk would not give just now; says nothing of the sample."""


class ShardReader:
    """Reads samples of one set in one process; keeps the tars used last open."""

    def __init__(self, shards: ShardSet) -> None:
        self._shards = shards
        self._descriptors: OrderedDict[int, int] = OrderedDict()
        self._files = RemoteFiles(shards.remote) if shards.remote else None
        self._downloader = _make_downloader(shards)
        self._fetched: dict[int, bytes] = {}
        self._distrusted: set[int] = set()
        self._pauses = list(PAUSES_SECONDS)
        self._given_up: set[int] = set()  # shards that were waited for in vain

    def prepare(self, samples: Iterable[int]) -> None:
        """Fetch from the server, many at a time, what of `samples` is not on this machine; `read` then has it.

        Raises UserError if the server does not answer.
        """
        if self._files is None:
            return
        missing = [sample for sample in dict.fromkeys(samples) if self._open(self._shards.shard_of(sample)) is None]
        contents = self._files.read_many([self._locate(sample) for sample in missing])
        self._fetched = dict(zip(missing, contents, strict=True))

    def read(self, sample: int) -> RawSample:
        """Read one sample; raises UnreadableSampleError, and UserError if a server does not answer."""
        return self.read_as(sample, self._check)

    def read_as(self, sample: int, check: Callable[[int, bytes], Read]) -> Read:
        """As `read`, where `check(sample, content)` makes of the bytes of the sample's record what is returned.

        `check` raises UnreadableSampleError for bytes that are not the sample's.
        """
        is_doubted = sample in self._distrusted
        self._distrusted.discard(sample)
        content = self._read_bytes(sample, from_server=is_doubted)
        found = check(sample, content)
        if is_doubted:
            self._compare_copy(sample, content)
        return found

    def try_twice(self, sample: int, read: Callable[[], Read]) -> Read:
        """Return what `read` makes of a sample, at the second time if the first fails: network file systems hiccup.

        While the disk gives errors it is tried for some time, once until it has given something again, and once for
        each shard. A bad place does not come back: where the disk gives another part of the tar, one pause is enough,
        for else each worker that meets it would hold up the run.
        """
        try:
            return read()
        except UnreadableSampleError:
            self.forget(sample)
        shard = self._shards.shard_of(sample)
        while self._pauses and shard not in self._given_up:
            try:
                return read()
            except UnreadableDiskError:
                self.forget(sample)
                time.sleep(self._pauses.pop(0))
                if self._gives_elsewhere(sample):
                    break
        try:
            return read()
        except UnreadableDiskError:
            self._given_up.add(shard)
            raise

    def _gives_elsewhere(self, sample: int) -> bool:
        """Whether the disk gives what lies half a tar away from a sample, which is not taken from memory."""
        shard = self._shards.shard_of(sample)
        num_bytes = self._shards.split.shard_bytes[shard]
        place = (self._locate(sample)[1] + num_bytes // 2) % max(1, num_bytes - PROBE_BYTES)
        try:
            descriptor = self._open(shard)
            if descriptor is None:
                return False
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, place, PROBE_BYTES, os.POSIX_FADV_DONTNEED)
            return bool(os.pread(descriptor, PROBE_BYTES, place))
        except OSError:
            return False

    def forget(self, sample: int) -> None:
        """Read a sample anew the next time: through a new handle, or past the cache (a disk may have damaged it)."""
        self._close(self._shards.shard_of(sample))
        if self._files is not None and not self._is_by_command:
            self._distrusted.add(sample)

    def close(self) -> None:
        """Close all tars."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def _check(self, sample: int, content: bytes) -> RawSample:
        record = self._shards.records[sample]
        offset, span = int(record["offset"]), int(record["span"])
        name = self._shards.stem_of(sample)
        key = f"{name}/@{offset}"
        try:
            member = read_member(io.BytesIO(content).read, offset=offset)
        except TarError as error:
            raise UnreadableSampleError(key, str(error)) from error
        if member is None or member.payload_offset + member.size != offset + span:
            raise UnreadableSampleError(key, "the tar holds another member here than the index says")
        key = f"{name}/{split_name(member.name)[0]}"
        image = content[member.payload_offset - offset :]
        if len(image) < member.size:
            raise UnreadableSampleError(key, f"the tar ends within it, at byte {offset + len(content)}")
        crc = crc32(image)
        if record["crc"] not in (crc, UNKNOWN_CRC):
            raise UnreadableSampleError(
                key, f"checksum {crc:08x}, the index says {int(record['crc']):08x}: damaged bytes"
            )
        return RawSample(key=key, label=int(record["label"]), image=image)

    def _compare_copy(self, sample: int, content: bytes) -> None:
        """Drop a cached tar that holds other bytes than the server, which were found to be right."""
        _, start, stop = self._locate(sample)
        shard = self._shards.shard_of(sample)
        descriptor = self._open(shard)
        if descriptor is None or self._downloader is None:
            return
        with suppress(OSError):  # of a disk that fails
            if os.pread(descriptor, stop - start, start) == content:
                return
        self._close(shard)
        self._downloader.drop(shard)

    def _read_bytes(self, sample: int, *, from_server: bool) -> bytes:
        fetched = self._fetched.pop(sample, None)
        if fetched is not None and not from_server:
            return fetched
        _, start, stop = self._locate(sample)
        shard = self._shards.shard_of(sample)
        try:
            descriptor = None if from_server else self._open(shard)
            if descriptor is not None:
                content = os.pread(descriptor, stop - start, start)
                self._pauses = list(PAUSES_SECONDS)
                return content
        except OSError as error:
            key = f"{self._shards.stem_of(sample)}/@{start}"
            kind = UnreadableSampleError if error.errno in LASTING else UnreadableDiskError
            raise kind(key, f"cannot be read ({error.strerror})") from error
        assert self._files is not None
        return self._files.read(*self._locate(sample))

    def _locate(self, sample: int) -> tuple[str, int, int]:
        """Return the path or URL of a sample's tar, its first byte and the byte behind it."""
        record = self._shards.records[sample]
        start = int(record["offset"])
        return self._shards.locate(self._shards.shard_of(sample)), start, start + int(record["span"])

    @property
    def _is_by_command(self) -> bool:
        return self._shards.remote is not None and self._shards.remote.command is not None

    def _open(self, shard: int) -> int | None:
        """Return a tar's descriptor; None if it is remote and not in the cache. Raises OSError, UserError."""
        if shard in self._descriptors:
            self._descriptors.move_to_end(shard)
            return self._descriptors[shard]
        descriptor = self._open_anew(shard)
        if descriptor is None:
            return None
        if self._files is not None:
            self._let_go_of_evicted()
        while len(self._descriptors) >= MAX_OPEN_SHARDS:
            os.close(self._descriptors.popitem(last=False)[1])
        self._descriptors[shard] = descriptor
        return descriptor

    def _open_anew(self, shard: int) -> int | None:
        if self._files is None:
            return os.open(self._shards.locate(shard), os.O_RDONLY | os.O_CLOEXEC)
        if self._downloader is None:
            return None
        if self._is_by_command:
            self._downloader.wait_for(shard)
        return self._downloader.open(shard)

    def _let_go_of_evicted(self) -> None:
        """Close tars that the cache has removed: only then is their space free."""
        for shard, descriptor in list(self._descriptors.items()):
            if os.fstat(descriptor).st_nlink == 0:
                self._close(shard)

    def _close(self, shard: int) -> None:
        descriptor = self._descriptors.pop(shard, None)
        if descriptor is not None:
            os.close(descriptor)


def _make_downloader(shards: ShardSet) -> Downloader | None:
    if shards.remote is None or shards.remote.cache is None:
        return None
    return Downloader(
        [shards.locate(shard) for shard in range(len(shards.split.shards))],
        shard_bytes=shards.split.shard_bytes,
        shard_sha256=shards.split.shard_sha256,
        config=shards.remote,
    )

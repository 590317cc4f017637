"""Where the bytes of a tar come from: any byte of it on request, or all of them forward."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Protocol, Self

SKIPPED_AT_ONCE_BYTES = 1 << 20


class TarSource(Protocol):
    """A tar that can be read anywhere."""

    @property
    def size(self) -> int:
        """Bytes of the tar."""

    def read_at(self, offset: int, num_bytes: int) -> bytes:
        """Return bytes from `offset`; fewer than asked for only where the tar ends."""


class LocalTar:
    """A tar on a file system, to be used in a `with` block; raises OSError.

    pread, not mmap: a file that is cut while it is mapped ends the process with SIGBUS, and costs the same.
    """

    def __init__(self, path: Path, *, sparsely: bool = False) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._descriptor).st_size
        if sparsely and hasattr(os, "posix_fadvise"):  # only headers will be read: no read-ahead into payloads
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def fileno(self) -> int:
        """Return the file's descriptor, for loops that cannot afford a call more."""
        return self._descriptor

    def read_at(self, offset: int, num_bytes: int) -> bytes:
        """See TarSource."""
        content = os.pread(self._descriptor, num_bytes, offset)
        while len(content) < num_bytes:  # the end, or one of the 2 GiB that a call gives at most
            more = os.pread(self._descriptor, num_bytes - len(content), offset + len(content))
            if not more:
                break
            content += more
        return content


class TarStream:
    """Goes forward through a tar; with `hashed`, reads and hashes what it skips too."""

    def __init__(self, source: TarSource, *, hashed: bool, position: int = 0) -> None:
        self._source = source
        self._sha256 = hashlib.sha256() if hashed else None
        self.position = position

    @property
    def size(self) -> int:
        """Bytes of the tar."""
        return self._source.size

    @property
    def is_hashed(self) -> bool:
        """Whether everything that passes is read and hashed."""
        return self._sha256 is not None

    @property
    def sha256(self) -> str | None:
        """Of what has passed, hex; None if it was not hashed."""
        return self._sha256.hexdigest() if self._sha256 else None

    def read(self, num_bytes: int) -> bytes:
        """Return the next bytes; fewer than asked for only at the end."""
        content = self._source.read_at(self.position, num_bytes)
        if self._sha256:
            self._sha256.update(content)
        self.position += len(content)
        return content

    def skip(self, num_bytes: int) -> None:
        """Pass over bytes that are known to be there."""
        if not self._sha256:
            self.position += num_bytes
            return
        while num_bytes > 0:
            content = self.read(min(num_bytes, SKIPPED_AT_ONCE_BYTES))
            if not content:
                return
            num_bytes -= len(content)

"""Whole tars on a local disk: a folder of limited size that all processes of a node share.

A tar appears under its name when all its bytes are there and right; until then they are in a `.partial`, which a later
download continues. Eviction takes names away, not bytes from under a reader: who has a tar open reads on, and lets go
when it sees that the name has gone (ShardReader).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hornet.durable import hash_file

CHUNK_BYTES = 8 << 20
KEPT_FREE_BYTES = 1 << 30
"""Of the disk: other things live there too."""


class DownloadError(Exception):
    """A tar that could not be brought into the cache; the reason in a line."""


class ShardCache:
    """One cache folder."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes

    def locate(self, url: str) -> Path:
        """Return where the tar of a URL is or would be; the whole URL counts, not its last part."""
        return self.folder / f"{hashlib.sha256(url.encode()).hexdigest()[:40]}.tar"

    def open(self, url: str) -> int | None:
        """Return a descriptor of a tar, which counts as a use of it; None if it is not there or not ours to read."""
        try:
            descriptor = os.open(self.locate(url), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        with suppress(OSError):
            os.utime(descriptor)
        return descriptor

    def drop(self, url: str) -> None:
        """Remove a tar that was found to be wrong."""
        self.locate(url).unlink(missing_ok=True)

    def download(
        self,
        url: str,
        *,
        num_bytes: int,
        sha256: str | None,
        fetch: Callable[[int, int], Iterator[bytes]],
        wanted: Collection[str] = (),
    ) -> bool:
        """Bring a tar into the cache; False if another process is at it, or only `wanted` URLs are left to evict.

        `fetch(start, stop)` yields bytes `start` to `stop` in pieces. Raises DownloadError, OSError (a full disk), and
        what `fetch` raises; the bytes that came stay for the next try, unless they are wrong.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.locate(url)
        partial = target.with_suffix(".partial")
        with partial.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            if not partial.exists() or os.fstat(file.fileno()).st_ino != partial.stat().st_ino:
                return False  # evicted or finished by another process in between
            if target.exists():
                partial.unlink()
                return True
            held = file.tell()
            if held > num_bytes:  # of another tar that was there under this URL
                file.truncate(0)
                held = 0
            kept = {self.locate(name) for name in wanted} | {target}
            if not self._make_room(num_bytes - held, kept={path.name for path in kept}):
                if held == 0:
                    partial.unlink()
                return False
            for piece in fetch(held, num_bytes):
                file.write(piece)
            file.flush()
            self._check(partial, url, num_bytes=num_bytes, sha256=sha256)
            os.fsync(file.fileno())
            partial.replace(target)
        return True

    def count_bytes(self) -> int:
        """Return what the cache holds, partial tars included."""
        return sum(size for _, size, _ in self._list())

    def _check(self, partial: Path, url: str, *, num_bytes: int, sha256: str | None) -> None:
        found = partial.stat().st_size
        reason = None
        if found != num_bytes:
            reason = f"{found} bytes came, the manifest says {num_bytes}"
        elif sha256 is not None:
            digest = hash_file(partial)
            if digest != sha256:
                reason = f"SHA-256 is {digest}, the manifest says {sha256}: another file, or damaged bytes"
        if reason:
            partial.unlink(missing_ok=True)
            raise DownloadError(f"{url}: {reason}")

    def _make_room(self, num_bytes: int, *, kept: Collection[str]) -> bool:
        """Evict what was not used for longest until `num_bytes` more fit; False if that cannot be done."""
        with self._lock():
            files = self._list()
            free = shutil.disk_usage(self.folder).free - KEPT_FREE_BYTES
            missing = num_bytes - min(free, self.max_bytes - sum(size for _, size, _ in files))
            for path, size, _ in sorted(files, key=lambda file: file[2]):
                if missing <= 0:
                    break
                if path.with_suffix(".tar").name not in kept and _remove_unused(path):
                    missing -= size
            return missing <= 0

    def _list(self) -> list[tuple[Path, int, float]]:
        """Return path, bytes and time of the last use of each file."""
        found = []
        for path in self.folder.glob("*"):
            if path.suffix in (".tar", ".partial"):
                with suppress(FileNotFoundError):
                    status = path.stat()
                    found.append((path, status.st_size, status.st_mtime))
        return found

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _remove_unused(path: Path) -> bool:
    """Remove a tar, or a partial one that nobody is downloading; return whether it is gone."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # who downloads holds it
            path.unlink()
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True

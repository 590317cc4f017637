"""Files that only grow, with a record elsewhere of how far they are good."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def holds(path: Path, num_bytes: int) -> bool:
    """Whether what was recorded is still there: a disk of a node's own is another one on another node."""
    return not num_bytes or (path.exists() and path.stat().st_size >= num_bytes)


def open_at(path: Path, num_bytes: int) -> IO[bytes]:
    """Open a growing file at the place up to which it is good; what stands behind came from a killed attempt."""
    file = path.open("r+b" if path.exists() else "w+b")
    file.truncate(num_bytes)
    file.seek(num_bytes)
    return file


@contextmanager
def naming(file: IO[bytes]) -> Iterator[None]:
    """Put the file's name into an error of writing, which has none: each may be on a disk of its own."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or file.name
        raise

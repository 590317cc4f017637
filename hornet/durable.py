"""Files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hornet.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Lend the name of a file beside `path`, which takes its place when the block has ended well, and goes otherwise.

    After a crash `path` holds the old bytes or the new ones, never a mixture. Processes of several hosts or containers
    may have the same number, so the name has more than that.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        sync_files([temporary])
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """As write_bytes, in UTF-8."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """As write_text, indented for people."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """As write_text, a line a row."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def replace_non_finite(value: Any) -> Any:
    """Return JSON values with null in place of NaN and infinity, for which JSON has no words."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: replace_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [replace_non_finite(item) for item in value]
    return value


def sync_folder(folder: Path) -> None:
    """Make renames and new files in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_files(paths: Iterable[Path]) -> None:
    """Make the contents of files written by someone else survive a power cut."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read the complete lines of a JSON-lines file; a last line that a kill cut short is left out.

    Raises UserError if any other line is not JSON, naming it.
    """
    if not path.exists():
        return []
    rows = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):  # the last piece is empty, or has no newline: cut short
        try:
            rows.append(json.loads(line))
        except ValueError as error:  # no JSON, or no UTF-8: a power cut leaves zeros
            raise UserError(f"{path}: line {number} is not JSON ({error}); move the file away to go on") from error
    return rows

"""The list of a source's images on disk: 40 bytes and a name for each, so that 14 million need no memory.

Made part by part into files that only grow, with a record of how far they are good: a listing that was killed goes on
after the last recorded part. A streamed source's contents go into a spool file on the way.
"""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from hornet.durable import write_json
from hornet.errors import UserError
from hornet.shards.build.growing import holds, naming, open_at
from hornet.shards.build.keys import make_plain, name_keys
from hornet.shards.build.source import Part, SeekableSource, Source, StreamedPart, StreamedSource
from hornet.shards.processes import map_in_processes

ROW = np.dtype(
    [
        ("part", "<u4"),
        ("class_id", "<u4"),
        ("offset", "<i8"),  # in the part's file or the spool; -1: a file of its own
        ("size", "<u8"),
        ("name_start", "<u8"),
        ("name_bytes", "<u4"),
        ("twin", "<u4"),  # see keys.name_keys
    ]
)
ROW_FIELDS = struct.Struct("<IIqQQII")  # the same, read singly
DamagedParts = Literal["refuse", "salvage"]
ROWS_NAME = "items.bin"  # as 0.1.0 called it: a build that it began goes on
COMMIT_SECONDS = 5.0
CHUNK_ROWS = 1 << 20


class ListedImage(NamedTuple):
    """One image of the listing."""

    part: int
    """Number of the part that holds it, in the source's order."""
    class_id: int
    """Number of its class, in the order in which classes were met."""
    offset: int
    """Byte in the part's file or the spool; -1 if the image is a file of its own."""
    size: int
    """Bytes of the image as stored in the source."""
    name: str
    """Path or member name within the part."""
    twin: int
    """See `keys.name_keys`."""


@dataclass(kw_only=True)
class Progress:
    """How far the growing files are good."""

    source: dict[str, Any]
    """What is listed, for refusing another source."""
    num_parts: int = 0
    num_images: int = 0
    names_bytes: int = 0
    spool_bytes: int = 0
    classes: list[str] = field(default_factory=list)
    """Class names, at the place of their class_id."""
    part_names: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    complete: bool = False


class Listing:
    """A complete listing, for reading."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.progress = _read_progress(folder)
        self.num_images = self.progress.num_images

    def open(self) -> None:
        """Open the files; once in each process that calls `read`."""
        self._rows = os.open(self.folder / ROWS_NAME, os.O_RDONLY | os.O_CLOEXEC)
        self._names = os.open(self.folder / "names.bin", os.O_RDONLY | os.O_CLOEXEC)

    def read(self, number: int) -> ListedImage:
        """Return one image by its number in the listing."""
        row = os.pread(self._rows, ROW.itemsize, number * ROW.itemsize)
        part, class_id, offset, size, name_start, name_bytes, twin = ROW_FIELDS.unpack(row)
        name = os.pread(self._names, name_bytes, name_start).decode("utf-8", "surrogateescape")
        return ListedImage(part=part, class_id=class_id, offset=offset, size=size, name=name, twin=twin)

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return one field of all images; the rest of the file does not stay in memory."""
        column = np.empty(self.num_images, ROW[name])
        with (self.folder / ROWS_NAME).open("rb") as file:
            for start in range(0, self.num_images, CHUNK_ROWS):
                rows = np.fromfile(file, ROW, min(CHUNK_ROWS, self.num_images - start))
                column[start : start + len(rows)] = rows[name]
        return column


def make_listing(
    source: Source,
    folder: Path,
    *,
    spool: Path,
    identity: dict[str, Any],
    num_workers: int,
    damaged_parts: DamagedParts = "refuse",
) -> Listing:
    """List `source` into `folder`, going on where an earlier call was killed; raises UserError.

    `spool` is the file for the contents of a streamed source, which is read anew where that has gone; `identity` says
    what the source is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    progress = _read_progress(folder) if (folder / "listing.json").exists() else Progress(source=identity)
    if progress.source != identity or not holds(spool, progress.spool_bytes):
        progress = Progress(source=identity)
    if not progress.complete:
        with _Writer(folder, spool, progress) as writer:
            if isinstance(source, SeekableSource):
                _list_seekable(source, writer, num_workers=num_workers, damaged_parts=damaged_parts)
            else:
                _list_streamed(source, writer)
            writer.finish(source.remarks)
    return Listing(folder)


@dataclass(frozen=True, kw_only=True)
class _PackedPart:
    """A part's entries, packed where they were listed: cheap to hand over and to append."""

    name: str
    table: npt.NDArray[np.void]
    """part, class_id and name_start are relative to this part."""
    names: bytes
    classes: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    damage: str | None = None


class _Writer:
    """Appends parts to the files and records how far they are good."""

    def __init__(self, folder: Path, spool: Path, progress: Progress) -> None:
        self._folder = folder
        self.progress = progress
        self._class_ids = {name: number for number, name in enumerate(progress.classes)}
        self._part_names = {make_plain(name) for name in progress.part_names}
        self._rows = open_at(folder / ROWS_NAME, progress.num_images * ROW.itemsize)
        self._names = open_at(folder / "names.bin", progress.names_bytes)
        self.spool = open_at(spool, progress.spool_bytes)
        self._next_commit = time.monotonic() + COMMIT_SECONDS

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._rows, self._names, self.spool):
            with naming(file):
                file.close()

    def add(self, part: _PackedPart) -> None:
        """Append the images of a part to the files on disk."""
        progress = self.progress
        if make_plain(part.name) in self._part_names:
            raise UserError(
                f"two parts of the source are named {make_plain(part.name)!r} (dots and slashes do not count); "
                "give one of them another name"
            )
        self._part_names.add(make_plain(part.name))
        ids = [self._class_ids.setdefault(name, len(self._class_ids)) for name in part.classes]
        progress.classes.extend(name for name in part.classes if self._class_ids[name] == len(progress.classes))
        table = part.table.copy()
        table["part"] = progress.num_parts
        table["class_id"] = np.asarray(ids, np.uint32)[table["class_id"]] if len(table) else 0
        table["name_start"] += progress.names_bytes
        self._rows.write(table.tobytes())
        self._names.write(part.names)
        progress.num_parts += 1
        progress.num_images += len(table)
        progress.names_bytes += len(part.names)
        progress.spool_bytes = self.spool.tell()
        progress.part_names.append(part.name)
        progress.remarks.extend(part.remarks)
        if time.monotonic() >= self._next_commit:
            self._commit()

    def finish(self, remarks: Sequence[str]) -> None:
        """Record that the listing is whole."""
        self.progress.remarks[:0] = remarks
        self.progress.complete = True
        self._commit()

    def _commit(self) -> None:
        for file in (self._rows, self._names, self.spool):
            with naming(file):
                file.flush()
                os.fsync(file.fileno())
        write_json(self._folder / "listing.json", vars(self.progress))
        self._next_commit = time.monotonic() + COMMIT_SECONDS


def _list_seekable(source: SeekableSource, writer: _Writer, *, num_workers: int, damaged_parts: DamagedParts) -> None:
    parts = source.parts[writer.progress.num_parts :]
    packed = map_in_processes(_list_part, parts, num_workers=num_workers)
    with tqdm(total=len(source.parts), desc="listing", unit=" parts", disable=None) as bar:
        bar.update(writer.progress.num_parts)
        for part in packed:
            if part.damage and damaged_parts == "refuse":
                raise UserError(
                    f"{part.damage}; copy it again, or take the {len(part.table)} images before the damage with "
                    "--damaged-parts salvage"
                )
            writer.add(part)
            bar.update()
            bar.set_postfix_str(f"{writer.progress.num_images} images", refresh=False)


def _list_part(part: Part) -> _PackedPart:
    listing = part.list()
    rows = [
        (entry.name, entry.class_name, -1 if entry.offset is None else entry.offset, entry.size)
        for entry in listing.entries
    ]
    remarks = listing.remarks
    if listing.damage:
        remarks = (*remarks, f"{listing.damage}: only the {len(rows)} images before are taken")
    return _pack(part.name, rows, remarks, listing.damage)


def _list_streamed(source: StreamedSource, writer: _Writer) -> None:
    total = sum(path.stat().st_size for path in source.paths)
    known = writer.progress.num_parts
    bar = tqdm(desc="spooling", unit="B", unit_scale=True, disable=None, postfix=f"of {total:.3g} B")
    with bar:
        for number, part in enumerate(source.stream()):
            if number < known:
                for _ in part.images:  # spooled by an earlier attempt
                    pass
                continue
            writer.add(_spool_part(part, writer.spool))
            bar.update(writer.progress.spool_bytes - bar.n)


def _spool_part(part: StreamedPart, spool: IO[bytes]) -> _PackedPart:
    rows = []
    for name, class_name, content in part.images:
        with naming(spool):
            rows.append((name, class_name, spool.tell(), len(content)))
            spool.write(content)
    return _pack(part.name, sorted(rows))


def _pack(
    part_name: str,
    rows: Sequence[tuple[str, str, int, int]],
    remarks: tuple[str, ...] = (),
    damage: str | None = None,
) -> _PackedPart:
    names = [name.encode("utf-8", "surrogateescape") for name, *_ in rows]
    classes: dict[str, int] = {}
    table = np.zeros(len(rows), ROW)
    table["class_id"] = [classes.setdefault(class_name, len(classes)) for _, class_name, _, _ in rows]
    table["offset"] = [offset for _, _, offset, _ in rows]
    table["size"] = [size for *_, size in rows]
    table["name_bytes"] = [len(name) for name in names]
    table["name_start"] = np.cumsum(table["name_bytes"], dtype=np.uint64) - table["name_bytes"]
    table["twin"] = name_keys([name for name, *_ in rows])
    return _PackedPart(
        name=part_name, table=table, names=b"".join(names), classes=tuple(classes), remarks=remarks, damage=damage
    )


def _read_progress(folder: Path) -> Progress:
    path = folder / "listing.json"
    try:
        content = json.loads(path.read_text())
        if "num_items" in content:  # as 0.1.0 called them
            content["num_images"] = content.pop("num_items")
        return Progress(**content)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: is damaged ({error}); remove {folder} and start again") from error

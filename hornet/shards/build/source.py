"""What `build` reads: a source is a sequence of parts, a part a list of images with their classes and places.

Two kinds. A seekable source (folders, plain tars) is listed without reading payloads, its parts in parallel, and its
images are read later, each by one `pread`. A streamed source (gzip, parquet) cannot be entered in the middle: it is
read once from front to end, and its images are kept in a spool file until their shards are written.

Not here: what becomes of the images (`image.py`), which shard they go to (`selection.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One image of a part."""

    name: str
    """Path within the part, with its extension, as it stands there."""
    class_name: str
    """Synset or other name of its class."""
    offset: int | None
    """Byte of the content within the part's file; None if the part is a folder and the image a file of its own."""
    size: int
    """Bytes of the content as stored."""


@dataclass(frozen=True, kw_only=True)
class PartListing:
    """The images that a part of a source holds, with their classes and places."""

    entries: tuple[Entry, ...]
    """Its images, sorted by name."""
    remarks: tuple[str, ...] = ()
    """What was passed over, and why: lines for people."""
    damage: str | None = None
    """Why the list ends where it does, if the part is cut or damaged: the entries before that are good."""


class Part(Protocol):
    """A piece of a seekable source: a class folder, a synset's tar, a shard. Picklable: it is listed in a process."""

    @property
    def name(self) -> str:
        """Unique within the source, no dots: the first half of the samples' keys (a synset, a shard's stem)."""

    @property
    def path(self) -> Path:
        """The file that holds the contents, or the folder that holds the files."""

    def list(self) -> PartListing:
        """List the images without reading their content."""


@dataclass(frozen=True, kw_only=True)
class StreamedPart:
    """A piece of a streamed source. Its images must be taken before the next part is asked for."""

    name: str
    """Unique within the source, no dots: the first half of its samples' keys."""
    images: Iterator[tuple[str, str, bytes]]
    """Name within the part, class name, content."""


@dataclass(frozen=True, kw_only=True)
class AnnotationFile:
    """The objects of a source's images, as one file lists them."""

    path: Path
    """The JSON file that lists them."""
    categories: tuple[str, ...]
    """Names of the objects' classes, in the order of their ids; the first is class 1."""
    category_ids: tuple[int, ...]
    """The categories' ids in the file, which may have gaps."""
    images: Mapping[str, bytes]
    """By an image's path below the source's folder: its objects as JSON (`instances.py`), not checked yet."""


@dataclass(frozen=True, kw_only=True)
class SeekableSource:
    """Images that can be read in any order."""

    parts: tuple[Part, ...]
    """The source's parts, sorted by name."""
    classes: tuple[str, ...] | None = None
    """Class names in the order of their labels, where the source has one (it may name classes without images);
    None: the sorted names of the classes met."""
    remarks: tuple[str, ...] = ()
    """What was passed over when the parts were looked for."""
    masks: Path | None = None
    """Folder of the images' masks, if those have the classes, pixel by pixel (`masks.py`)."""
    annotations: AnnotationFile | None = None
    """The images' objects, if those have the classes."""


class StreamedSource(Protocol):
    """Images that come in one order only."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that are read."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """As SeekableSource.classes."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was passed over, as far as it has been read; whole after `stream` has ended."""

    def stream(self) -> Iterator[StreamedPart]:
        """Yield the parts in their order; the same at each call."""


Source = SeekableSource | StreamedSource

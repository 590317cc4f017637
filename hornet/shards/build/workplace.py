"""Where the images of a build are read from, and where its shards go."""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hornet.errors import UserError
from hornet.shards.build.image import ImageOptions
from hornet.shards.build.listing import ListedImage, Listing
from hornet.shards.build.masks import MaskRule
from hornet.shards.build.selection import Int32Array
from hornet.shards.build.source import AnnotationFile

SECOND_READ_SECONDS = 1.0  # after a disk's error
MAX_OPEN_FILES = 256  # of a process


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """What all shards of a build share."""

    output: Path
    """Folder of the set, where its tars go."""
    work: Path
    """The working folder: listing, orders, records of finished shards."""
    name: str
    """First part of the tars' names."""
    listing: Listing
    """All images of the source, on disk."""
    part_paths: tuple[Path, ...] | None
    """The file or folder of each part; None if the contents are in the spool."""
    spool: Path
    """Contents of a streamed source."""
    labels: Int32Array
    """Label of each class of the source."""
    samples_per_shard: int
    """In each tar, before drops."""
    image: ImageOptions
    """What is done to images."""
    masks: MaskRule | None = None
    """Where the images' masks are, if they have some."""
    annotations: AnnotationFile | None = None
    """The images' objects, if they have some."""

    def find_file(self, listed: ListedImage) -> Path:
        """Return the file or folder that an image is read from."""
        return self.spool if self.part_paths is None else self.part_paths[listed.part]


def read_content(workplace: Workplace, listed: ListedImage, descriptors: dict[Path, int]) -> bytes:
    """Read an image's bytes as the source holds them; raises UserError if they are no longer what was listed."""
    path = workplace.find_file(listed)
    if listed.offset < 0:
        descriptor = os.open(f"{path}/{listed.name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = os.read(descriptor, listed.size + 1)
        finally:
            os.close(descriptor)
    else:
        content = os.pread(open_file(path, descriptors), listed.size, listed.offset)
    if len(content) != listed.size:
        raise UserError(
            f"{path}: {listed.name!r} has {len(content)} bytes, {listed.size} when it was listed; the source was "
            f"changed during the build: remove {workplace.work} and the unfinished tars, and start again"
        )
    return content


def read_patiently(workplace: Workplace, listed: ListedImage, descriptors: dict[Path, int]) -> bytes:
    """As `read_content`; where the disk gives an error, once more through a new handle, for servers hiccup."""
    try:
        return read_content(workplace, listed, descriptors)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
    descriptor = descriptors.pop(workplace.find_file(listed), None)
    if descriptor is not None:
        os.close(descriptor)
    time.sleep(SECOND_READ_SECONDS)
    return read_content(workplace, listed, descriptors)


def gives_nothing(workplace: Workplace, listed: ListedImage) -> bool:
    """Whether others of the source cannot be read either: a disk that went away has given errors, not a bad place."""
    listing = workplace.listing
    numbers = dict.fromkeys(listing.num_images * quarter // 4 for quarter in range(4))
    others = [other for other in map(listing.read, numbers) if other != listed]
    descriptors: dict[Path, int] = {}
    try:
        for other in others:
            with suppress(OSError):
                read_content(workplace, other, descriptors)
                return False
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)
    return bool(others)


def open_file(path: Path, descriptors: dict[Path, int]) -> int:
    """Return a descriptor of a file that images are read from; those used first are closed for it."""
    if path not in descriptors:
        while len(descriptors) >= MAX_OPEN_FILES:
            os.close(descriptors.pop(next(iter(descriptors))))
        descriptors[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return descriptors[path]

"""Layout `image-folder`: a folder of images for each class."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from hornet.errors import UserError
from hornet.shards.build.source import Entry, PartListing, SeekableSource
from hornet.shards.build.sources.archives import refuse_splits
from hornet.shards.build.sources.names import SYSTEM_FOLDERS, PassedOver, is_image, mention_packed


@dataclass(frozen=True, kw_only=True)
class ClassFolder:
    """The images of one class, with all folders below."""

    name: str
    path: Path

    def list(self) -> PartListing:
        """See Part. Folders that are links are followed; a folder that contains itself is an error."""
        passed = PassedOver(str(self.path))
        entries: list[Entry] = []
        _walk(self.path, "", self.name, entries, passed, above=())
        return PartListing(entries=tuple(sorted(entries, key=lambda entry: entry.name)), remarks=passed.remarks)


def open_image_folder(path: Path) -> SeekableSource:
    """Open a folder of class folders; raises UserError if there are none."""
    if not path.is_dir():
        raise UserError(f"{path}: is not a folder; give the one that holds a folder for each class")
    passed = PassedOver(str(path))
    names = []
    for entry in _scan(path):
        if entry.is_symlink() and not (path / entry.name).exists():
            raise UserError(f"{entry.path}: is a link to nothing; mend or remove it")
        if entry.name.startswith(".") or entry.name in SYSTEM_FOLDERS or not entry.is_dir():
            passed.add(entry.name)
        else:
            names.append(entry.name)
    if not names:
        raise UserError(
            f"{path}: holds no class folders; images are expected in {path}/CLASS/NAME.jpg{mention_packed(path)}"
        )
    refuse_splits(names, where=str(path))
    parts = tuple(ClassFolder(name=name, path=path / name) for name in sorted(names))
    return SeekableSource(parts=parts, classes=tuple(sorted(names)), remarks=passed.remarks)


def _walk(
    folder: Path,
    prefix: str,
    class_name: str,
    entries: list[Entry],
    passed: PassedOver,
    *,
    above: tuple[tuple[int, int], ...],
) -> None:
    state = folder.stat()
    inode = (state.st_dev, state.st_ino)  # a number alone comes again on another disk
    if inode in above:
        raise UserError(f"{folder}: is a link to a folder that it lies in; remove the link")
    for found in _scan(folder):
        name = prefix + found.name
        if found.name.startswith(".") or found.name in SYSTEM_FOLDERS:
            passed.add(name)
        elif found.is_dir():
            _walk(Path(found.path), f"{name}/", class_name, entries, passed, above=(*above, inode))
        elif is_image(name):
            entries.append(Entry(name=name, class_name=class_name, offset=None, size=_size(found)))
        else:
            passed.add(name)


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); change its permissions or remove it") from error


def _size(found: os.DirEntry[str]) -> int:
    try:
        state = found.stat()
    except OSError as error:
        raise UserError(f"{found.path}: cannot be read ({error.strerror}); mend the link or remove it") from error
    if not stat.S_ISREG(state.st_mode):  # opening a pipe would wait for ever
        raise UserError(f"{found.path}: is an image by its name, but no plain file; remove it")
    return state.st_size

"""Which files of a source are images, and an account of those that are not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

from hornet.shards.imagenet import SYNSET

EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp"})

SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"})
"""Folders that systems make. Taken for classes, they would move the labels of others; an `@eaDir` stands in each folder
of a Synology disk and holds several small copies of each image."""

PACKED_TAR = re.compile(r"\.(tar\.(gz|zst|bz2|xz|Z)|tgz|tzst|tbz2?|txz)$", re.IGNORECASE)

KNOWN_SPLITS = frozenset({"train", "training", "validation", "val", "valid", "dev", "test"})
"""Words in the names of tars, and of the folders they lie in."""


def find_splits(names: Iterable[str]) -> list[str]:
    """Return the splits that the names of some tars speak of, sorted."""
    return sorted({word for name in names for word in split_words(name)} & KNOWN_SPLITS)


def split_words(name: str) -> set[str]:
    """Return the words of a tar's name."""
    return set(re.split(r"[-_./ ]+", name.lower()))


def is_image(name: str) -> bool:
    """Whether a file is taken for an image, by its extension; what it really is shows when it is decoded.

    Hidden ones are not: tars made on macOS hold a `._NAME.JPEG` beside each NAME.JPEG. Nor is what lies in a system's
    folder.
    """
    folders, _, base = name.rpartition("/")
    return (
        not base.startswith(".") and get_extension(base) in EXTENSIONS and SYSTEM_FOLDERS.isdisjoint(folders.split("/"))
    )


def get_extension(name: str) -> str:
    """Return what stands behind the last dot of a path's last part, in lower case."""
    base = name.rpartition("/")[2]
    return base.rpartition(".")[2].lower() if "." in base else ""


def mention_packed(folder: Path) -> str:
    """Return what an error about a folder without tars or class folders adds if it holds packed tars, or nothing."""
    packed = sorted(path.name for path in folder.iterdir() if PACKED_TAR.search(path.name) and path.name[0] != ".")
    return f"; it holds {', '.join(packed[:3])}: packed tars must be unpacked first" if packed else ""


def is_class_name(tar: str, known: Collection[str]) -> bool:
    """Whether a tar's name is taken for a class unasked: a synset, or one of the classes that are wanted."""
    return SYNSET.fullmatch(tar) is not None or tar in known


def explain_unasked(tar: str, layout: str) -> str:
    """Return why a tar's name is not taken for a class, and what to do."""
    return (
        f"no class is made from a tar's name unasked, and {tar!r} may be a shard's; if each tar holds one class and is "
        f"named after it, say --layout {layout}; if they are shards, labels are read from .cls members, or from .json "
        "ones with --layout webdataset --labels json:KEY"
    )


class PassedOver:
    """Counts what is no image, so that nothing is left out in silence."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self._num_links, self._first_link = 0, ""

    def add(self, name: str) -> None:
        """Note a file that is not taken."""
        extension = get_extension(name)
        self._counts[extension] += 1
        self._first.setdefault(extension, name)

    def add_link(self, name: str) -> None:
        """Note an image's name whose content is elsewhere: a link, a device."""
        self._num_links += 1
        self._first_link = self._first_link or name

    def has(self, extension: str) -> bool:
        """Whether files of an extension were passed over."""
        return extension in self._counts

    @property
    def remarks(self) -> tuple[str, ...]:
        """One line for each extension."""
        links = f"{self._where}: {self._num_links} images are links and were passed over, {self._first_link!r} for one"
        return tuple(
            f"{self._where}: {count} files "
            + (f"of type .{extension}" if extension else "without an extension")
            + f" were passed over, {self._first[extension]!r} for one"
            for extension, count in sorted(self._counts.items())
        ) + ((links,) if self._num_links else ())

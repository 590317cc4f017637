"""Plain tars: `tar-of-tars` (fall11_whole.tar, ILSVRC2012_img_train.tar), `folder-of-tars`, `tar-of-folders`.

Only headers are read here, each by one seek; contents are read later where they stand.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hornet.errors import UserError
from hornet.shards.build.source import Entry, PartListing, SeekableSource
from hornet.shards.build.sources.names import PACKED_TAR, PassedOver, is_image
from hornet.shards.index import walk
from hornet.shards.tar import LocalTar, Member, TarError, TarStream

SPLIT_FOLDERS = {"train", "val", "valid", "validation", "test"}


@dataclass(frozen=True, kw_only=True)
class Window:
    """A tar within a tar, as a TarSource: offsets are the outer file's."""

    outer: LocalTar
    size: int
    """Offset in the outer file at which the inner tar ends."""

    def read_at(self, offset: int, num_bytes: int) -> bytes:
        """See TarSource."""
        return self.outer.read_at(offset, max(0, min(num_bytes, self.size - offset)))


@dataclass(frozen=True, kw_only=True)
class TarPart:
    """One tar of images of one class, as a file or within a file."""

    name: str
    path: Path
    class_name: str
    start: int = 0
    """Where it begins in the file."""
    size: int | None = None
    """Its bytes; None for the whole file."""
    class_of: Callable[[str], str] | None = None
    """The class of an image by its name, where it is not `class_name`; raises ValueError for names it cannot place."""

    def list(self) -> PartListing:
        """See Part."""
        where = f"{self.path}: {self.name}" if self.size is not None else str(self.path)
        passed = PassedOver(where)
        entries, damage = [], None
        try:
            with LocalTar(self.path, sparsely=True) as tar:
                end = tar.size if self.size is None else self.start + self.size
                for member in walk_members(TarStream(Window(outer=tar, size=end), hashed=False, position=self.start)):
                    if not member.is_file:
                        passed.add_link(member.name)
                    elif is_image(member.name):
                        entries.append(self._describe(member))
                    else:
                        passed.add(member.name)
        except TarError as error:
            damage = f"{where}: {error}"
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from error
        entries.sort(key=lambda entry: entry.name)
        return PartListing(entries=tuple(entries), remarks=passed.remarks, damage=damage)

    def _describe(self, member: Member) -> Entry:
        class_name = self.class_of(member.name) if self.class_of else self.class_name
        return Entry(name=member.name, class_name=class_name, offset=member.payload_offset, size=member.size)


@dataclass(frozen=True, kw_only=True)
class ListedPart:
    """A class of a `tar-of-folders`, listed when the tar was opened."""

    name: str
    path: Path
    entries: tuple[Entry, ...]

    def list(self) -> PartListing:
        """See Part."""
        return PartListing(entries=self.entries)


def walk_members(stream: TarStream) -> Iterator[Member]:
    """Yield the plain files of a tar up to its end, passing over contents; raises TarError if it is cut or damaged."""
    return (member for member in walk(stream) if member.is_file or is_image(member.name))


def open_tar_of_tars(path: Path) -> SeekableSource:
    """Open a tar whose members are tars, each named after its class; raises UserError if it is damaged."""
    passed = PassedOver(str(path))
    parts = []
    for member in _walk_file(path):
        if PACKED_TAR.search(member.name):
            raise UserError(
                f"{path}: {member.name!r} within is packed and cannot be entered by seeking; unpack it first"
            )
        if not member.name.endswith(".tar"):
            passed.add(member.name)
            continue
        name = Path(member.name).name.removesuffix(".tar")
        parts.append(TarPart(name=name, path=path, class_name=name, start=member.payload_offset, size=member.size))
    if not parts:
        raise UserError(f"{path}: holds no tars; choose another --layout")
    return _sort(parts, passed)


def open_folder_of_tars(path: Path) -> SeekableSource:
    """Open a folder of tars, each named after its class; raises UserError if there are none."""
    passed = PassedOver(str(path))
    parts = []
    for file in sorted(path.iterdir()):
        if PACKED_TAR.search(file.name) and not file.name.startswith("."):
            raise UserError(f"{file}: a packed tar in a folder of tars cannot be entered by seeking; unpack it first")
        if file.suffix != ".tar" or file.name.startswith("."):
            passed.add(file.name)
            continue
        name = file.name.removesuffix(".tar")
        parts.append(TarPart(name=name, path=file, class_name=name))
    if not parts:
        raise UserError(f"{path}: holds no tars; give the folder of the classes' tars")
    return _sort(parts, passed)


def open_tar_of_folders(path: Path, *, is_asked: bool = True) -> SeekableSource:
    """Open a tar of class folders (CLASS/NAME.jpg, also below folders that all share); raises UserError.

    Unless the layout `is_asked` for, a tar that looks like a shard is refused: with labels, or one folder of images
    and what belongs to them.
    """
    passed = PassedOver(str(path))
    members, others = [], set()
    for member in _walk_file(path):
        if not member.is_file:
            passed.add_link(member.name)
        elif is_image(member.name):
            members.append(member)
        else:
            passed.add(member.name)
            others.add(member.name.rpartition(".")[0])
    shared = count_shared_folders([member.name for member in members])
    by_class: dict[str, list[Entry]] = defaultdict(list)
    for member in members:
        class_name, name = split_class(member.name, shared, where=str(path))
        by_class[class_name].append(
            Entry(name=name, class_name=class_name, offset=member.payload_offset, size=member.size)
        )
    refuse_splits(by_class, where=str(path))
    has_companions = any(member.name.rpartition(".")[0] in others for member in members)
    if not is_asked and (passed.has("cls") or (len(by_class) == 1 and has_companions)):
        raise UserError(
            f"{path}: may be a shard, and no class is made from the folder {next(iter(by_class))!r} in it unasked "
            f"({'; '.join(passed.remarks)}); if its folders are the classes, say --layout tar-of-folders; labels in "
            "members are read with --layout webdataset, from .cls or with --labels json:KEY"
        )
    parts = [
        ListedPart(name=name, path=path, entries=tuple(sorted(entries, key=lambda entry: entry.name)))
        for name, entries in by_class.items()
    ]
    return SeekableSource(parts=tuple(sorted(parts, key=lambda part: part.name)), remarks=passed.remarks)


def refuse_splits(classes: Iterable[str], *, where: str) -> None:
    """Refuse folders called train, val, ... and nothing else: their class folders lie one deeper."""
    names = set(classes)
    if len(names) > 1 and names <= SPLIT_FOLDERS:
        raise UserError(
            f"{where}: its folders are the splits {', '.join(sorted(names))}, not classes; give the folder of one "
            "(unpack an archive for that)"
        )


def split_class(name: str, num_shared: int, *, where: str) -> tuple[str, str]:
    """Split a member's name into its class and its name within; raises UserError for an image outside a class."""
    pieces = [piece for piece in name.split("/") if piece not in ("", ".")][num_shared:]
    if ".." in pieces:
        raise UserError(f"{where}: {name!r} leads out of its folder; images are expected as CLASS/NAME.jpg")
    if len(pieces) < 2:
        raise UserError(f"{where}: {name!r} lies in no class folder; images are expected as CLASS/NAME.jpg")
    return pieces[0], "/".join(pieces[1:])


def count_shared_folders(names: list[str]) -> int:
    """Return how many leading folders all names share, the class folder not counted."""
    split = [[piece for piece in name.split("/") if piece not in ("", ".")] for name in names]
    num_shared = 0
    while split and all(len(pieces) > num_shared + 2 for pieces in split):
        if len({pieces[num_shared] for pieces in split}) > 1:
            break
        num_shared += 1
    return num_shared


def _walk_file(path: Path) -> Iterator[Member]:
    try:
        with LocalTar(path, sparsely=True) as tar:
            yield from walk_members(TarStream(tar, hashed=False))
    except TarError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _sort(parts: list[TarPart], passed: PassedOver) -> SeekableSource:
    parts = sorted(parts, key=lambda part: part.name)
    return SeekableSource(
        parts=tuple(parts), classes=tuple(sorted({part.class_name for part in parts})), remarks=passed.remarks
    )

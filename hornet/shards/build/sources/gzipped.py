"""Layout `tar-gz`: a gzip that holds a tar of tars (winter21_whole.tar.gz) or of class folders, read front to end."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hornet.errors import UserError
from hornet.shards.build.image import MAX_CONTENT_BYTES
from hornet.shards.build.source import StreamedPart
from hornet.shards.build.sources.archives import count_shared_folders, split_class
from hornet.shards.build.sources.names import PassedOver, explain_unasked, get_extension, is_class_name, is_image
from hornet.shards.sample_label import LABEL_EXTENSION
from hornet.shards.tar import Member, TarError, check_end, read_member

PIECE_BYTES = 1 << 20


class _Forward:
    """A tar that passes by; `end` is where it must be over, None for the end of the stream."""

    def __init__(self, file: gzip.GzipFile, *, position: int, end: int | None) -> None:
        self._file = file
        self.position = position
        self.end = end

    def read(self, num_bytes: int) -> bytes:
        if self.end is not None:
            num_bytes = min(num_bytes, self.end - self.position)
        content = self._file.read(num_bytes)
        while content and len(content) < num_bytes:
            more = self._file.read(num_bytes - len(content))
            if not more:
                break
            content += more
        self.position += len(content)
        return content

    def take(self, member: Member, num_bytes: int) -> bytes:
        """Read so much of a member; raises TarError if it is not all there."""
        content = self.read(num_bytes)
        if len(content) < num_bytes:
            raise TarError(member.offset, f"member {member.name!r} is cut after {len(content)} bytes")
        return content

    def skip(self, member: Member, num_bytes: int) -> None:
        while num_bytes:
            num_bytes -= len(self.take(member, min(num_bytes, PIECE_BYTES)))

    def members(self) -> Iterator[Member]:
        """Yield the members; the content of each must be taken or skipped, padding included, before the next."""
        while True:
            member = read_member(self.read, offset=self.position)
            if member is None:
                check_end(self.read, offset=self.position)
                return
            yield member


@dataclass(kw_only=True)
class GzippedTar:
    """A StreamedSource over one .tar.gz."""

    path: Path
    known_classes: frozenset[str] | None = None
    """What the tars within may be called beside synsets; None for anything, as the layout was asked for."""
    classes: tuple[str, ...] | None = None
    passed: PassedOver = field(init=False)

    def __post_init__(self) -> None:
        self.passed = PassedOver(str(self.path))

    @property
    def paths(self) -> tuple[Path, ...]:
        """See StreamedSource."""
        return (self.path,)

    @property
    def remarks(self) -> tuple[str, ...]:
        """See StreamedSource."""
        return self.passed.remarks

    def stream(self) -> Iterator[StreamedPart]:
        """See StreamedSource; raises UserError, with the byte of the unpacked tar, if it is cut or damaged."""
        self.passed = PassedOver(str(self.path))
        with self._named_errors(), gzip.open(self.path) as file:
            yield from self._parts(_Forward(file, position=0, end=None))

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Turn what is wrong with the bytes into a UserError; also around images, which others take."""
        try:
            yield
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{self.path}: the gzip is cut or damaged ({error}); copy it again") from error
        except TarError as error:
            raise UserError(f"{self.path}: unpacked {error}") from error
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror or error})") from error

    def _parts(self, outer: _Forward) -> Iterator[StreamedPart]:
        loose: _Loose | None = None
        for member in outer.members():
            if member.is_file and member.name.endswith(".tar"):
                name = Path(member.name).name.removesuffix(".tar")
                if self.known_classes is not None and not is_class_name(name, self.known_classes):
                    raise UserError(f"{self.path}: {explain_unasked(name, 'tar-gz')}")
                inner = _Forward(outer._file, position=outer.position, end=outer.position + member.size)
                yield StreamedPart(name=name, images=self._images(inner, name))
                outer.position = inner.position
                outer.skip(member, member.payload_offset + member.size - inner.position + member.padding)
            elif member.is_file and is_image(member.name):
                loose = loose or _Loose(self, outer)
                yield StreamedPart(name=self.path.name.partition(".")[0], images=loose.images(member))
                return
            else:
                take_image(outer, member, self.passed)

    def _images(self, inner: _Forward, class_name: str) -> Iterator[tuple[str, str, bytes]]:
        with self._named_errors():
            for member in inner.members():
                content = take_image(inner, member, self.passed)
                if content is not None:
                    yield member.name, class_name, content


@dataclass(kw_only=False)
class _Loose:
    """The images of a gzip of class folders: one part, since a class may come back at any time."""

    source: GzippedTar
    outer: _Forward

    def images(self, first: Member) -> Iterator[tuple[str, str, bytes]]:
        """Yield all images from `first` on. Folders above the class are known by the first one's depth."""
        num_shared = max(0, count_shared_folders([first.name]))
        member: Member | None = first
        members = self.outer.members()
        above = _folders_above(first.name, num_shared)
        with self.source._named_errors():
            while member is not None:
                content = take_image(self.outer, member, self.source.passed)
                if content is not None:
                    if _folders_above(member.name, num_shared) != above:
                        raise UserError(
                            f"{self.source.path}: holds class folders in {'/'.join(above)!r} and elsewhere "
                            f"({member.name!r}), which may be several splits; unpack it and give the folder of one"
                        )
                    class_name, name = split_class(member.name, num_shared, where=str(self.source.path))
                    yield f"{class_name}/{name}", class_name, content
                member = next(members, None)


def _folders_above(name: str, num_shared: int) -> list[str]:
    return [piece for piece in name.split("/") if piece not in ("", ".")][:num_shared]


def take_image(stream: _Forward, member: Member, passed: PassedOver) -> bytes | None:
    """Return an image's content, None for anything else; the stream stands at the next member afterwards.

    Raises TarError at a label: its images' classes are not their folders.
    """
    if member.is_file and get_extension(member.name) == LABEL_EXTENSION:
        raise TarError(
            member.offset,
            f"{member.name!r} is a label, so these are samples and not class folders; unpack the gzip (`gunzip`) and "
            "build from the tars",
        )
    if not member.is_file or not is_image(member.name) or member.size > MAX_CONTENT_BYTES:
        if member.is_file:
            passed.add(member.name)
        elif is_image(member.name):
            passed.add_link(member.name)
        stream.skip(member, member.size + member.padding)
        return None
    content = stream.take(member, member.size)
    stream.skip(member, member.padding)
    return content

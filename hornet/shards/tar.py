"""A strict reading of tar files: what tarfile and webdataset pass over in silence is an error here.

Header checksums, cut members, missing end-of-archive blocks and bytes after them are checked; nothing is unpacked.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass

BLOCK_BYTES = tarfile.BLOCKSIZE
MAX_EXTENDED_HEADER_BYTES = 1 << 20  # names are far shorter; a damaged size must not make us read gigabytes
MAX_MEMBER_BYTES = 1 << 60  # beyond any file; sums of offsets and sizes stay 64-bit numbers

Read = Callable[[int], bytes]
"""Return the next bytes, as many as asked for; fewer only at the end."""


class TarError(Exception):
    """What is wrong at which byte of a tar."""

    def __init__(self, offset: int, problem: str) -> None:
        self.offset = offset
        self.problem = problem
        super().__init__(f"byte {offset}: {problem}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member's header, with the extended headers (long names) before it."""

    name: str
    """The full name."""
    offset: int
    """Byte offset of its first header block, extended headers included."""
    payload_offset: int
    """Byte offset of its content."""
    size: int
    """Bytes of content."""
    is_file: bool
    """Whether it is a plain file: no folder, no link."""

    @property
    def padding(self) -> int:
        """Bytes between the end of the content and the next header."""
        return -self.size % BLOCK_BYTES


def split_name(name: str) -> tuple[str, str]:
    """Split a member's name into stem and extension at the first dot after its folders, as webdataset does."""
    folders, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    return (folders + slash + stem, extension.lower()) if stem and dot else (name, "")


def read_member(read: Read, *, offset: int) -> Member | None:
    """Read the header of the member at `offset`, where `read` stands; None at a block of zeros (the archive's end).

    Raises TarError.
    """
    position = offset
    name: str | None = None
    size: int | None = None
    while True:
        header = _read_header(read, position)
        if header is None:
            if position != offset:
                raise TarError(position, "a long name without the member it belongs to")
            return None
        position += BLOCK_BYTES
        if not _is_extended(header):
            break
        content = _read_extended(read, header, position)
        position += len(content)
        if header.type == tarfile.GNUTYPE_LONGNAME:
            name = tarfile.nts(content, "utf-8", "surrogateescape")  # type: ignore[attr-defined]
        elif header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            records = parse_pax(content[: header.size], position)
            name = records.get("path", name)
            size = _parse_pax_size(records["size"], position) if "size" in records else size
    size = header.size if size is None else size
    if not 0 <= size < MAX_MEMBER_BYTES:
        raise TarError(offset, f"a member of {size} bytes")
    if header.type == tarfile.GNUTYPE_SPARSE:
        raise TarError(offset, "a sparse member; write the tar without --sparse")
    is_file = header.isreg()
    return Member(
        name=header.name if name is None else name,
        offset=offset,
        payload_offset=position,
        size=size if is_file else 0,
        is_file=is_file,
    )


def check_end(read: Read, *, offset: int) -> None:
    """Check that, after the first block of zeros that ends at `offset`, only zeros follow, and at least a block.

    Raises TarError.
    """
    block = read(BLOCK_BYTES)
    if len(block) < BLOCK_BYTES:
        raise TarError(offset, "only one of the two end-of-archive blocks is there; the file was cut")
    while block:
        if block.strip(b"\0"):
            raise TarError(offset, "bytes after the end of the archive; tars put one behind the other are not read")
        offset += len(block)
        block = read(1 << 20)


def _read_header(read: Read, offset: int) -> tarfile.TarInfo | None:
    block = read(BLOCK_BYTES)
    if not block:
        raise TarError(offset, "the file ends without end-of-archive blocks; it was cut between two members")
    if len(block) < BLOCK_BYTES:
        raise TarError(offset, f"the file ends within a header, {len(block)} bytes into it; it was cut")
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        return None
    except tarfile.HeaderError as error:
        raise TarError(offset, f"damaged header ({error})") from error


def _is_extended(header: tarfile.TarInfo) -> bool:
    return header.type in (
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
        tarfile.XHDTYPE,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.XGLTYPE,
    )


def _read_extended(read: Read, header: tarfile.TarInfo, offset: int) -> bytes:
    if not 0 <= header.size <= MAX_EXTENDED_HEADER_BYTES:
        raise TarError(offset, f"an extended header of {header.size} bytes")
    num_bytes = header.size + -header.size % BLOCK_BYTES
    content = read(num_bytes)
    if len(content) < num_bytes:
        raise TarError(offset, "the file ends within an extended header; it was cut")
    return content


def parse_pax(content: bytes, offset: int) -> dict[str, str]:
    """Read the records of a PAX header: `LENGTH key=value` and a newline, LENGTH counting all of it (POSIX.1-2001).

    Raises TarError.
    """
    records = {}
    while content:
        length, _, _ = content.partition(b" ")
        if not re.fullmatch(rb"\d{1,9}", length) or not len(length) + 2 <= int(length) <= len(content):
            raise TarError(offset, "damaged PAX header")
        record = content[len(length) + 1 : int(length) - 1]
        key, equals, value = record.partition(b"=")
        if not equals or key.startswith(b"GNU.sparse"):
            raise TarError(offset, "damaged PAX header or a sparse member")
        records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        content = content[int(length) :]
    return records


def _parse_pax_size(value: str, offset: int) -> int:
    if not re.fullmatch("[0-9]{1,19}", value):
        raise TarError(offset, f"damaged PAX header: size is {value[:20]!r}")
    return int(value)

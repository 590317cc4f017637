"""What the bytes of many ordinary tar headers say, in numpy. Unusual ones are not judged, only noticed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hornet.shards.tar import BLOCK_BYTES, TarError, parse_pax, split_name

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

NAME_BYTES = 100
OWNER = slice(100, 124)
"""mode, uid and gid, 8 bytes each. tarfile refuses a header where a number is none, so all are looked at."""
MTIME = slice(136, 148)
TAIL_NUMBER_FIELDS = ((329, 337), (337, 345))
"""devmajor, devminor."""
SIZE = slice(124, 135)
TAIL_START = 160
PREFIX_START = 345  # from here on, a header without a long name is zeros
FILE, FOLDER, PAX = ord("0"), ord("5"), ord("x")
PAX_BYTES = 2 * BLOCK_BYTES
TIME_RECORD = np.frombuffer(b" mtime=", np.uint8)
LANES = np.uint64(0x00FF00FF00FF00FF)


@dataclass(frozen=True, kw_only=True)
class Members:
    """The images and labels among some members, in their order."""

    offsets: Numbers
    """Byte of the first header block."""
    payload_offsets: Numbers
    """Byte of the content."""
    sizes: Numbers
    """Bytes of content."""
    is_label: Mask
    """Whether it is a label."""
    label_contents: Sequence[bytes]
    """Of each label, up to 512 bytes of its content."""
    stems: Sequence[bytes]
    """The name up to the extension."""


def describe_members(
    offsets: Numbers, places: Numbers, blocks: Bytes, *, images: Sequence[str], labels: Sequence[str]
) -> Members | None:
    """Describe the members with the extensions `images` and `labels`; None if any member is unusual.

    `offsets` are the members' bytes in the tar; `places` say with which of the (n, 512) `blocks` they begin: with a
    header, or with a PAX header, its content of one block and then the header. Behind it is the first block of content.
    """
    has_pax = blocks[places, 156] == PAX
    places_of_headers = np.where(has_pax, places + PAX_BYTES // BLOCK_BYTES, places)
    headers = blocks[places_of_headers]
    if not _are_ordinary(headers) or not _are_harmless(blocks, places[has_pax]):
        return None
    found = _find_roles(headers, images=images, labels=labels)
    if found is None:
        return None
    chosen, is_label, stems = found
    sizes = _read_octal(headers[chosen, SIZE])
    contents = blocks[places_of_headers[chosen][is_label] + 1].tobytes()
    starts = offsets + np.where(has_pax, BLOCK_BYTES + PAX_BYTES, BLOCK_BYTES)
    return Members(
        offsets=offsets[chosen],
        payload_offsets=starts[chosen],
        sizes=sizes,
        is_label=is_label,
        label_contents=[
            contents[number * BLOCK_BYTES : number * BLOCK_BYTES + min(size, BLOCK_BYTES)]
            for number, size in enumerate(sizes[is_label].tolist())
        ],
        stems=stems,
    )


def _are_ordinary(headers: Bytes) -> bool:
    """Whether all are sound headers of plain files and folders with short names, in the form all writers share."""
    kinds, sizes = headers[:, 156], headers[:, SIZE]
    folders = kinds == FOLDER
    return bool(
        ((kinds == FILE) | folders).all() and (sizes[folders] == ord("0")).all() and _have_sound_fields(headers)
    )


def _are_harmless(blocks: Bytes, places: Numbers) -> bool:
    """Whether the PAX headers at `places`, with their content, are sound and leave name and size alone."""
    if not len(places):
        return True
    headers, starts = blocks[places], blocks[places + 1, : 2 + len(TIME_RECORD)]
    words = headers.view("<u8")
    if _are_times(headers[:1], starts[:1]).all():  # nearly all others are its copies, but for the time itself
        differ = (words != words[0]).any(axis=1) | (starts != starts[0]).any(axis=1)
        differ[0] = True
        places, headers, starts = places[differ], headers[differ], starts[differ]
    sizes = _read_octal(headers[:, SIZE])
    if not _have_sound_fields(headers) or not (sizes <= BLOCK_BYTES).all():
        return False
    is_time = _are_times(headers, starts)
    for place, size in zip(places[~is_time].tolist(), sizes[~is_time].tolist(), strict=True):
        try:
            records = parse_pax(blocks[place + 1, :size].tobytes(), 0)
        except TarError:
            return False
        if "path" in records or "size" in records:
            return False
    return True


def _are_times(headers: Bytes, starts: Bytes) -> Mask:
    """Whether the content is one record, "28 mtime=1700000000.1234567", as long as its own number and header say."""
    is_as_long = _read_decimal(starts[:, :2]) == _read_octal(headers[:, SIZE])
    found: Mask = is_as_long & (starts[:, 2:] == TIME_RECORD).all(axis=1)
    return found


def _have_sound_fields(headers: Bytes) -> bool:
    """Whether numbers are numbers and checksums right, and nothing stands where only long names put something."""
    tails, owners = headers[:, TAIL_START:], headers[:, OWNER]
    words = tails.view("<u8")
    if (words == words[0]).all():  # mode, owner, device: the same in the whole tar, as a rule
        tails = tails[:1]
    if (owners == owners[0]).all():
        owners = owners[:1]
    return bool(
        _are_digits(headers[:, SIZE]).all()
        and ((headers[:, 135] == 0) | (headers[:, 135] == 32)).all()
        and not tails[:, PREFIX_START - TAIL_START :].any()
        and _are_numbers(headers[:, MTIME])
        and all(_are_numbers(owners[:, start : start + 8]) for start in range(0, 24, 8))
        and all(_are_numbers(tails[:, start - TAIL_START : stop - TAIL_START]) for start, stop in TAIL_NUMBER_FIELDS)
        and _are_checksums_right(headers[:, :TAIL_START], tails)
    )


def _are_digits(field: Bytes) -> Mask:
    return (field ^ ord("0")) < 8  # 0x30 to 0x37, the octal ones


def _read_decimal(field: Bytes) -> Numbers:
    """Read two bytes as a decimal number; -1 where they are none."""
    digits = field.astype(np.int64) - ord("0")
    return np.where(((digits >= 0) & (digits <= 9)).all(axis=1), digits[:, 0] * 10 + digits[:, 1], -1)


def _are_numbers(field: Bytes) -> bool:
    """Whether each row is octal digits, perhaps none, and then only NULs and spaces."""
    digits = _are_digits(field)
    return bool((digits | (field == 0) | (field == 32)).all() and (digits[:, 1:] <= digits[:, :-1]).all())


def _read_octal(field: Bytes) -> Numbers:
    places: Numbers = 8 ** np.arange(field.shape[1] - 1, -1, -1, dtype=np.int64)
    value: Numbers = (field & 7).astype(np.int64) @ places
    return value


def _are_checksums_right(heads: Bytes, tails: Bytes) -> bool:
    """Compare with the sum of a header's bytes, its checksum field read as spaces; `tails` may be one for all."""
    field = heads[:, 148:156]
    if not (_are_digits(field[:, :6]).all() and (field[:, 6] == 0).all() and (field[:, 7] == 32).all()):
        return False
    totals = _sum_bytes(heads) + _sum_bytes(tails) - field.sum(axis=1, dtype=np.int64) + 8 * 32
    return bool((totals == _read_octal(field[:, :6])).all())


def _sum_bytes(rows: Bytes) -> Numbers:
    words = rows.view("<u8")
    lanes = (words & LANES) + (words >> np.uint64(8) & LANES)  # 4 of 16 bits; a sum of 64 stays below 2**16
    totals: Numbers = lanes.sum(axis=1, dtype=np.uint64).reshape(-1, 1).view("<u2").sum(axis=1, dtype=np.int64)
    return totals


def _find_first(mask: Mask) -> Numbers:
    """Return the first column that is set in each row; the number of columns where none is."""
    first = mask.argmax(axis=1)
    found: Numbers = np.where(mask[np.arange(len(mask)), first], first, mask.shape[1])
    return found


def _find_roles(
    headers: Bytes, *, images: Sequence[str], labels: Sequence[str]
) -> tuple[Mask, Mask, list[bytes]] | None:
    """Return which members are images or labels, which of these are labels, and their stems.

    None if a name needs webdataset's regular expression to be split.
    """
    lengths = _find_first(headers[:, :NAME_BYTES] == 0)
    width = max(1, int(lengths.max()))
    names, columns = np.ascontiguousarray(headers[:, :width]), np.arange(width, dtype=np.int16)
    inside = columns < lengths[:, None]
    is_slash = (names == ord("/")) & inside
    starts = (
        (width - _find_first(is_slash[:, ::-1])) % (width + 1) if is_slash.any() else np.zeros(len(names), np.int64)
    )
    is_dot = (names == ord(".")) & inside & (columns >= starts[:, None])
    dots = _find_first(is_dot)
    is_file = headers[:, 156] == FILE
    hidden = (dots == starts) & is_file
    if hidden.any() or ((names == ord("\n")) & inside).any():
        return None
    if not all(_is_plain_folder(row.tobytes(), (*images, *labels)) for row in headers[~is_file, :NAME_BYTES]):
        return None
    places = dots[:, None] + np.arange(1, 1 + max(map(len, (*images, *labels))))
    endings = names[np.arange(len(names))[:, None], np.minimum(places, width - 1)] | 0x20  # small letters
    is_image = _have_extension(endings, lengths - dots - 1, images) & is_file
    is_label = _have_extension(endings, lengths - dots - 1, labels) & is_file
    chosen = is_image | is_label
    stems = np.where(columns < dots[chosen, None], names[chosen], 0).astype(np.uint8)
    return chosen, is_label[chosen], np.ascontiguousarray(stems).view(f"S{width}").ravel().tolist()


def _have_extension(endings: Bytes, lengths: Numbers, extensions: Sequence[str]) -> Mask:
    found = np.zeros(len(endings), bool)
    for extension in extensions:
        letters = np.frombuffer(extension.encode(), np.uint8)
        found |= (lengths == len(letters)) & (endings[:, : len(letters)] == letters).all(axis=1)
    return found


def _is_plain_folder(name: bytes, extensions: Sequence[str]) -> bool:
    """Whether a folder's name is not that of an image or a label, which the strict parser refuses."""
    text = name.partition(b"\0")[0].decode("utf-8", "surrogateescape").rstrip("/")
    return split_name(text)[1] not in extensions

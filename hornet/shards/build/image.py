"""What becomes of one picture on its way into a shard: copied, written anew, mended, or dropped with a reason."""

from __future__ import annotations

import gzip
import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageCms, ImageFile, ImageOps

from hornet.errors import UserError
from hornet.shards.decode import FORMATS, MAX_PIXELS, UndecodableImageError, convert_to_rgb, decode_image

COPIED_FORMATS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
"""Whose bytes go into the tar unchanged (MPO is a JPEG with more pictures behind); others are written anew."""

WRITTEN_FORMATS = {"jpeg": "jpg", "png": "png", "webp": "webp"}

GZIP_MAGIC = b"\x1f\x8b"
MAX_CONTENT_BYTES = 256 << 20  # what a gzip member may unfold to

Check = Literal["decode", "header"]
WrittenFormat = Literal["jpeg", "png", "webp"]


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """What `build` does to pictures. Part of what makes a set's bytes."""

    check: Check = "decode"
    """`decode`: every picture is decoded whole once; `header`: only its header is read, damage behind is not seen."""
    max_short_edge: int | None = None
    """Pictures with a longer short edge are made smaller, to this (pixels); none is made larger."""
    min_short_edge: int = 1
    """Pictures with a shorter short edge are dropped (pixels)."""
    written_format: WrittenFormat | None = None
    """Of pictures that are written anew; None for jpeg with max_short_edge, else png (nothing is lost)."""
    quality: int = 90
    """Of JPEG and WebP written anew, 1 to 100."""
    rewrite_all: bool = False
    """Write every picture anew, not only those that change."""
    apply_orientation: bool = False
    """Turn pictures as their EXIF says, and write them anew; the original training ignores it."""
    convert_colour: bool = False
    """Convert pictures with an ICC profile to sRGB, and write them anew; the original training ignores profiles."""
    repair: bool = False
    """Keep what can be decoded of cut JPEGs (the rest is grey), written anew, instead of dropping them."""

    def __post_init__(self) -> None:
        if self.min_short_edge < 1:
            raise UserError(f"min-short-edge: must be at least 1 pixel, not {self.min_short_edge}")
        if self.max_short_edge is not None and self.max_short_edge < self.min_short_edge:
            raise UserError(
                f"max-short-edge: must be at least min-short-edge ({self.min_short_edge}), not {self.max_short_edge}"
            )
        if not 1 <= self.quality <= 100:
            raise UserError(f"quality: must be 1 to 100, not {self.quality}")

    @property
    def format(self) -> WrittenFormat:
        """The format of pictures written anew."""
        return self.written_format or ("png" if self.max_short_edge is None else "jpeg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture as it goes into the tar."""

    extension: str
    """jpg, png or webp: the true format, whatever the file was called."""
    content: bytes
    """Encoded."""
    size: tuple[int, int]
    """Width and height, pixels."""
    mended: str | None
    """What was wrong and is no more; None for nearly all."""


class DroppedPictureError(Exception):
    """Why a picture does not get into the set."""

    def __init__(self, kind: str, reason: str) -> None:
        self.kind = kind
        """`undecodable`, `small`, `large`, `unreadable`: for counting."""
        self.reason = reason
        """For people."""
        super().__init__(reason)


def prepare_picture(content: bytes, options: PictureOptions) -> Picture:
    """Return what goes into the tar; raises DroppedPictureError.

    gzip around a picture is removed (some members of fall11 are packed so). Unchanged pictures keep their bytes.
    """
    mended = None
    try:
        if content.startswith(GZIP_MAGIC):
            content, mended = _gunzip(content), "gunzipped"
        header = _read_jpeg_header(content) or _open(content)
        if min(header.size) < options.min_short_edge:
            raise DroppedPictureError(
                "small",
                f"{header.size[0]} x {header.size[1]} pixels; the short edge must have {options.min_short_edge}",
            )
        extension = COPIED_FORMATS.get(header.format or "")
        if extension and not _changes(content, header, options):
            if options.check == "decode":
                decode_image(content)
            return Picture(extension=extension, content=content, size=header.size, mended=mended)
        return _write_anew(_change(content, options), options, mended)
    except UndecodableImageError as error:
        if not options.repair or not content.startswith(b"\xff\xd8"):
            raise DroppedPictureError("undecodable", str(error)) from error
        return _repair(content, options, error)


def _gunzip(content: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            unfolded = file.read(MAX_CONTENT_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UndecodableImageError(f"damaged gzip ({error})") from error
    if len(unfolded) > MAX_CONTENT_BYTES:
        raise UndecodableImageError(f"gzip that unfolds to more than {MAX_CONTENT_BYTES} bytes")
    return unfolded


def _open(content: bytes) -> Image.Image:
    """Read the header alone."""
    if not content:
        raise UndecodableImageError("an empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise DroppedPictureError("large", f"more than {MAX_PIXELS} pixels") from error
    except Exception as error:
        raise UndecodableImageError(f"not decodable ({type(error).__name__}: no picture's header)") from error
    if image.width * image.height > MAX_PIXELS:
        raise DroppedPictureError("large", f"{image.width} x {image.height} pixels; {MAX_PIXELS} are the limit")
    return image


@dataclass(frozen=True, slots=True)
class _JpegHeader:
    size: tuple[int, int]
    format: str = "JPEG"


def _read_jpeg_header(content: bytes) -> _JpegHeader | None:
    """Find a JPEG's size 20 times faster than Pillow opens it; None for anything that is not plain."""
    if not content.startswith(b"\xff\xd8\xff"):
        return None
    position = 2
    while position + 9 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if 0xC0 <= marker <= 0xC2:  # start of frame: baseline, extended, progressive
            height, width = struct.unpack_from(">HH", content, position + 5)
            return _JpegHeader((width, height)) if 0 < width * height <= MAX_PIXELS else None
        if not 0xC4 <= marker <= 0xFE:
            return None
        position += 2 + int.from_bytes(content[position + 2 : position + 4])
    return None


def _changes(content: bytes, header: Image.Image | _JpegHeader, options: PictureOptions) -> bool:
    if options.rewrite_all or (options.max_short_edge is not None and min(header.size) > options.max_short_edge):
        return True
    if not options.apply_orientation and not options.convert_colour:
        return False
    image = _open(content)
    return (options.apply_orientation and _orientation(image) != 1) or (
        options.convert_colour and bool(image.info.get("icc_profile"))
    )


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF raises anything; it is not part of the picture
        return 1


def _change(content: bytes, options: PictureOptions) -> Image.Image:
    picture = decode_image(content)
    header = _open(content)
    if options.convert_colour and header.info.get("icc_profile"):
        picture = _to_srgb(content, header.info["icc_profile"], picture)
    if options.apply_orientation and 2 <= _orientation(header) <= 8:
        exif = picture.getexif()
        exif[0x0112] = _orientation(header)
        picture = ImageOps.exif_transpose(picture)
    if options.max_short_edge is not None and min(picture.size) > options.max_short_edge:
        picture = _shrink(picture, options.max_short_edge)
    return picture


def _to_srgb(content: bytes, profile: bytes, picture: Image.Image) -> Image.Image:
    """Convert by the profile of the file; a profile that fits nothing is ignored, as decoders do."""
    try:
        source = _open(content)
        if source.mode not in ("RGB", "CMYK", "L"):
            return picture
        converted = ImageCms.profileToProfile(
            source, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return picture
    return picture if converted is None else converted


def _shrink(picture: Image.Image, short_edge: int) -> Image.Image:
    scale = short_edge / min(picture.size)
    size = (max(short_edge, round(picture.width * scale)), max(short_edge, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BICUBIC)


def _write_anew(picture: Image.Image, options: PictureOptions, mended: str | None) -> Picture:
    buffer = io.BytesIO()
    quality = {} if options.format == "png" else {"quality": options.quality}
    picture.info.clear()  # no EXIF, no profile: what they said is applied, or was to be ignored
    try:
        picture.save(buffer, options.format.upper(), **quality)
    except (OSError, ValueError) as error:  # WebP ends at 16,383 pixels
        raise UndecodableImageError(f"cannot be written as {options.format} ({error})") from error
    extension = WRITTEN_FORMATS[options.format]
    return Picture(extension=extension, content=buffer.getvalue(), size=picture.size, mended=mended)


def _repair(content: bytes, options: PictureOptions, cause: UndecodableImageError) -> Picture:
    """Decode a damaged JPEG as far as it goes; the missing part is grey."""
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        picture = convert_to_rgb(_open(content))
    except Exception as error:
        raise DroppedPictureError("undecodable", str(cause)) from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    if options.max_short_edge is not None and min(picture.size) > options.max_short_edge:
        picture = _shrink(picture, options.max_short_edge)
    return _write_anew(picture, options, f"decoded as far as it goes: {cause}")

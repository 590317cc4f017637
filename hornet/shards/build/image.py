"""What becomes of one image on its way into a shard: copied, written anew, mended, or dropped with a reason."""

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
"""Whose bytes go into the tar unchanged (MPO is a JPEG with more images behind); others are written anew."""

WRITTEN_FORMATS = {"jpeg": "jpg", "png": "png", "webp": "webp"}

GZIP_MAGIC = b"\x1f\x8b"
MAX_CONTENT_BYTES = 256 << 20  # what a gzip member may unfold to

Check = Literal["decode", "header"]
WrittenFormat = Literal["jpeg", "png", "webp"]


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """What `build` does to images. Part of what makes a set's bytes."""

    check: Check = "decode"
    """`decode`: every image is decoded whole once; `header`: only its header is read, damage behind is not seen."""
    max_short_edge: int | None = None
    """Images with a longer short edge are made smaller, to this (pixels); none is made larger."""
    min_short_edge: int = 1
    """Images with a shorter short edge are dropped (pixels)."""
    written_format: WrittenFormat | None = None
    """Of images that are written anew; None for jpeg with max_short_edge, else png (nothing is lost)."""
    quality: int = 90
    """Of JPEG and WebP written anew, 1 to 100."""
    rewrite_all: bool = False
    """Write every image anew, not only those that change."""
    apply_orientation: bool = False
    """Turn images as their EXIF says, and write them anew; the original training ignores it."""
    convert_colour: bool = False
    """Convert images with an ICC profile to sRGB, and write them anew; the original training ignores profiles."""
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
        """The format of images written anew."""
        return self.written_format or ("png" if self.max_short_edge is None else "jpeg")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedImage:
    """An image as it goes into the tar."""

    extension: str
    """jpg, png or webp: the true format, whatever the file was called."""
    content: bytes
    """Encoded image, as it goes into the tar."""
    size: tuple[int, int]
    """Width and height, pixels."""
    mended: str | None
    """What was wrong and is no more; None for nearly all."""


class DroppedImageError(Exception):
    """Why an image does not get into the set."""

    def __init__(self, kind: str, reason: str) -> None:
        self.kind = kind
        """`undecodable`, `small`, `large`, `unreadable`: for counting."""
        self.reason = reason
        """What was found, in words for people."""
        super().__init__(reason)


def prepare_image(content: bytes, options: ImageOptions) -> PreparedImage:
    """Return what goes into the tar; raises DroppedImageError.

    gzip around an image is removed (some members of fall11 are packed so). Unchanged images keep their bytes.
    """
    mended = None
    try:
        if content.startswith(GZIP_MAGIC):
            content, mended = _gunzip(content), "gunzipped"
        header = _read_jpeg_header(content) or _open(content)
        if min(header.size) < options.min_short_edge:
            raise DroppedImageError(
                "small",
                f"{header.size[0]} x {header.size[1]} pixels; the short edge must have {options.min_short_edge}",
            )
        extension = COPIED_FORMATS.get(header.format or "")
        if extension and not _changes(content, header, options):
            if options.check == "decode":
                decode_image(content)
            return PreparedImage(extension=extension, content=content, size=header.size, mended=mended)
        return _write_anew(_change(content, options), options, mended)
    except UndecodableImageError as error:
        if not options.repair or not content.startswith(b"\xff\xd8"):
            raise DroppedImageError("undecodable", str(error)) from error
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
    """Open an image by its header alone; nothing is decoded."""
    if not content:
        raise UndecodableImageError("an empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise DroppedImageError("large", f"more than {MAX_PIXELS} pixels") from error
    except Exception as error:
        raise UndecodableImageError(f"not decodable ({type(error).__name__}: no image's header)") from error
    if image.width * image.height > MAX_PIXELS:
        raise DroppedImageError("large", f"{image.width} x {image.height} pixels; {MAX_PIXELS} are the limit")
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


def _changes(content: bytes, header: Image.Image | _JpegHeader, options: ImageOptions) -> bool:
    if options.rewrite_all or (options.max_short_edge is not None and min(header.size) > options.max_short_edge):
        return True
    if not options.apply_orientation and not options.convert_colour:
        return False
    image = _open(content)
    return (options.apply_orientation and _orientation(image) != 1) or (
        options.convert_colour and bool(image.info.get("icc_profile"))
    )


def read_orientation(content: bytes) -> int:
    """Return what EXIF data say of how an encoded image is shown: 1, as it is stored, to 8; 1 without any."""
    try:
        return _orientation(_open(content))
    except (UndecodableImageError, DroppedImageError):
        return 1


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF raises anything; it is not part of the image
        return 1


def _change(content: bytes, options: ImageOptions) -> Image.Image:
    image = decode_image(content)
    header = _open(content)
    if options.convert_colour and header.info.get("icc_profile"):
        image = _to_srgb(content, header.info["icc_profile"], image)
    if options.apply_orientation and 2 <= _orientation(header) <= 8:
        exif = image.getexif()
        exif[0x0112] = _orientation(header)
        image = ImageOps.exif_transpose(image)
    if options.max_short_edge is not None and min(image.size) > options.max_short_edge:
        image = _shrink(image, options.max_short_edge)
    return image


def _to_srgb(content: bytes, profile: bytes, image: Image.Image) -> Image.Image:
    """Convert by the profile of the file; a profile that fits nothing is ignored, as decoders do."""
    try:
        source = _open(content)
        if source.mode not in ("RGB", "CMYK", "L"):
            return image
        converted = ImageCms.profileToProfile(
            source, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    return image if converted is None else converted


def _shrink(image: Image.Image, short_edge: int) -> Image.Image:
    scale = short_edge / min(image.size)
    size = (max(short_edge, round(image.width * scale)), max(short_edge, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC)


def _write_anew(image: Image.Image, options: ImageOptions, mended: str | None) -> PreparedImage:
    buffer = io.BytesIO()
    quality = {} if options.format == "png" else {"quality": options.quality}
    image.info.clear()  # no EXIF, no profile: what they said is applied, or was to be ignored
    try:
        image.save(buffer, options.format.upper(), **quality)
    except (OSError, ValueError) as error:  # WebP ends at 16,383 pixels
        raise UndecodableImageError(f"cannot be written as {options.format} ({error})") from error
    extension = WRITTEN_FORMATS[options.format]
    return PreparedImage(extension=extension, content=buffer.getvalue(), size=image.size, mended=mended)


def _repair(content: bytes, options: ImageOptions, cause: UndecodableImageError) -> PreparedImage:
    """Decode a damaged JPEG as far as it goes; the missing part is grey."""
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        image = convert_to_rgb(_open(content))
    except Exception as error:
        raise DroppedImageError("undecodable", str(cause)) from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    if options.max_short_edge is not None and min(image.size) > options.max_short_edge:
        image = _shrink(image, options.max_short_edge)
    try:
        return _write_anew(image, options, f"decoded as far as it goes: {cause}")
    except UndecodableImageError as error:
        raise DroppedImageError("undecodable", str(error)) from error

"""Encoded bytes to an RGB image, in one defined way for every mode; nothing but images is decoded."""

from __future__ import annotations

import io
import re
import warnings

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What is tried, whatever the member's extension says: ILSVRC has a PNG named .JPEG. Never TIFF, PSD, EPS, ..."""

MAX_PIXELS = 89_478_485  # Pillow's own warning limit; a quarter GiB of RGB


class UndecodableImageError(Exception):
    """Bytes that are not an image we take, with the reason in a line."""


def decode_image(content: bytes) -> Image.Image:
    """Decode to mode RGB; EXIF orientation is not applied, as in the original code (`Image.convert`).

    Palettes are looked up, alpha is dropped, CMYK is converted, 16 bits are cut to the upper 8, of an animation the
    first image is taken. Raises UndecodableImageError.
    """
    return decode_opened(open_image(content))


def open_image(content: bytes) -> Image.Image:
    """Read the header alone: size, format and mode; raises UndecodableImageError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged EXIF, large images: below we decide ourselves
            image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Exception as error:
        raise describe_error(error) from error
    if image.width * image.height > MAX_PIXELS:
        raise UndecodableImageError(f"{image.width} x {image.height} pixels; {MAX_PIXELS} are the limit")
    return image


def decode_opened(image: Image.Image) -> Image.Image:
    """Decode what `open_image` made, see `decode_image`; raises UndecodableImageError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return convert_to_rgb(image)
    except Exception as error:
        raise describe_error(error) from error


def describe_error(error: Exception) -> UndecodableImageError:
    """Say it in a line: Pillow's plugins raise anything on damaged bytes (OSError, SyntaxError, struct.error)."""
    reason = re.sub(r"\s*<_io.BytesIO object at \w+>", "", " ".join(str(error).split()))[:200]
    return UndecodableImageError(f"not decodable ({type(error).__name__}: {reason})")


def convert_to_rgb(image: Image.Image) -> Image.Image:
    """Convert from any mode, see `decode_image`."""
    if image.mode.startswith(("I", "F")):  # 16 bits in I;16 or I: convert("RGB") would clip at 255, not scale
        values = np.clip(np.asarray(image, dtype=np.int64), 0, 65535) >> 8
        return Image.fromarray(values.astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode != "RGB":
        return image.convert("RGB")
    image.load()
    return image

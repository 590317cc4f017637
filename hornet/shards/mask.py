"""The mask of a sample: the class of each pixel, as a PNG of one channel under the member name KEY.seg.png.

A set's masks count classes from 0, as its label space does; pixels of no class have the largest value that the
PNG's 8 or 16 bits hold. Not here: which image has which mask, and what else values may mean in a source
(`build/masks.py`).
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from hornet.shards.decode import MAX_PIXELS, UndecodableImageError, describe_error

MASK_EXTENSION = "seg.png"
"""What stands behind a key's first dot in the member's name."""

IGNORED = -1
"""A pixel of no class, once decoded."""

MAX_CLASSES = 32_767
"""Of int16, in which decoded masks are kept."""

ClassMap = npt.NDArray[np.int16]
"""(H, W): class of each pixel, or IGNORED."""


def read_values(content: bytes) -> tuple[npt.NDArray[np.int32], int]:
    """Return the values (H, W) of a PNG of one channel as they stand there, and the largest that its bits hold.

    Of a palette image the indices count. Raises UndecodableImageError.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=("PNG",))
        if image.width * image.height > MAX_PIXELS:
            raise UndecodableImageError(f"{image.width} x {image.height} pixels; {MAX_PIXELS} are the limit")
        if image.mode not in ("L", "P", "1", "I", "I;16"):
            raise UndecodableImageError(
                f"a PNG of mode {image.mode}; a mask has one channel of 8 or 16 bits, the number of a class"
            )
        bits = 16 if image.mode.startswith("I") else 8
        if image.mode == "1":
            image = image.convert("L").point(lambda value: value and 1)
        return np.asarray(image).astype(np.int32), (1 << bits) - 1
    except UndecodableImageError:
        raise
    except Exception as error:
        raise describe_error(error) from error


def decode_mask(content: bytes) -> ClassMap:
    """Return the classes of a set's mask; raises UndecodableImageError."""
    values, largest = read_values(content)
    found = np.where(values == largest, IGNORED, values)
    if found.size and found.max() > MAX_CLASSES:
        raise UndecodableImageError(f"holds class {found.max()}; {MAX_CLASSES} is the limit")
    return found.astype(np.int16)


def encode_mask(classes: ClassMap, *, num_classes: int) -> bytes:
    """Return the PNG of a mask: 8 bits for up to 255 classes, else 16."""
    dtype = np.uint8 if num_classes <= np.iinfo(np.uint8).max else np.uint16
    values = np.where(classes == IGNORED, np.iinfo(dtype).max, classes).astype(dtype)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()

"""A region of an encoded image as pixels: those of `decode_image`, sooner.

Of JPEGs, `jpeg_region.c` decodes little more than the region, where it was built; torchvision decodes the whole. Both
give the same pixels and refuse the same damaged bytes, so it does not matter to a run which machine has which.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from hornet.data.augment.sampling import Box
from hornet.shards.decode import decode_opened, describe_error

try:
    from hornet.data.augment import jpeg_region
except ImportError:  # no compiler, or no libjpeg-turbo, when the package was installed
    HAS_NATIVE = False
else:
    HAS_NATIVE = True

Pixels = npt.NDArray[np.uint8]

END_OF_IMAGE = b"\xff\xd9"
PLAIN_SAMPLING = ((1, 1), (2, 1), (2, 2))
"""4:4:4, 4:2:2, 4:2:0: samples of brightness for one of colour, across and down."""


def decode_region(content: bytes, image: Image.Image, region: Box) -> Pixels:
    """Return (H, W, 3) pixels of a region of what `open_image` made of `content`; raises UndecodableImageError."""
    top, left, height, width = region
    if image.format != "JPEG" or image.mode not in ("RGB", "L"):  # CMYK is converted in Pillow's way
        pixels = np.array(decode_opened(image))
    elif HAS_NATIVE and is_plain_jpeg(content, image):
        return _decode_with_native(content, region)
    else:
        pixels = _decode_whole(content)
    return pixels[top : top + height, left : left + width]


def is_plain_jpeg(content: bytes, image: Image.Image) -> bool:
    """Whether a JPEG has one pass, a usual sampling, and ends as it should: else, only decoding all of it is safe."""
    first, *others = (layer[1:3] for layer in getattr(image, "layer", [(0, 0, 0)]))
    return (
        content.endswith(END_OF_IMAGE)
        and "progressive" not in image.info
        and first in PLAIN_SAMPLING
        and all(sampling == (1, 1) for sampling in others)
    )


def _decode_with_native(content: bytes, region: Box) -> Pixels:
    pixels = np.empty((region[2], region[3], 3), np.uint8)
    try:
        jpeg_region.decode_into(content, pixels, *region)
    except ValueError as error:
        raise describe_error(error) from error
    return pixels


def _decode_whole(content: bytes) -> Pixels:
    data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    try:
        pixels: Pixels = decode_jpeg(data, mode=ImageReadMode.RGB).permute(1, 2, 0).numpy()
    except RuntimeError as error:
        raise describe_error(error) from error
    return pixels

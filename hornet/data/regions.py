"""A region of an encoded picture as pixels: those of `decode_image`, sooner."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from hornet.data.decode import decode_opened, describe_error
from hornet.data.drawing import Box

Pixels = npt.NDArray[np.uint8]


def decode_region(content: bytes, image: Image.Image, region: Box) -> Pixels:
    """Return (H, W, 3) pixels of a region of what `open_image` made of `content`; raises UndecodableImageError."""
    top, left, height, width = region
    if image.format == "JPEG" and image.mode in ("RGB", "L"):  # CMYK is converted in Pillow's way
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        try:
            pixels: Pixels = decode_jpeg(data, mode=ImageReadMode.RGB).permute(1, 2, 0).numpy()
        except RuntimeError as error:
            raise describe_error(error) from error
    else:
        pixels = np.array(decode_opened(image))
    return pixels[top : top + height, left : left + width]

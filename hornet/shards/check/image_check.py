"""Whether an image can be decoded, and what is unusual about it."""

from __future__ import annotations

from PIL import Image

from hornet.shards.decode import UndecodableImageError, decode_image, open_image

FORMATS_OF_EXTENSIONS = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}
MIN_EDGE_PIXELS = 32
PNG_DEPTH_BYTE = 24  # of the first chunk, IHDR: bits of a channel


def check_image(content: bytes, *, extension: str) -> list[tuple[str, str]]:
    """Return (kind, detail) of what there is to say; see `finding.py` for the kinds."""
    try:
        decode_image(content)
    except UndecodableImageError as error:
        return [("undecodable", str(error))]
    image = open_image(content)
    found = []
    image_format = "JPEG" if image.format == "MPO" else str(image.format)
    if image_format != FORMATS_OF_EXTENSIONS.get(extension, image_format):
        found.append(("format", f"{image_format} in a .{extension} member"))
    if image.mode != "RGB":
        found.append((f"mode-{image.mode}", f"mode {image.mode}"))
    is_deep_png = image_format == "PNG" and content[PNG_DEPTH_BYTE : PNG_DEPTH_BYTE + 1] == b"\x10"
    if is_deep_png or image.mode.startswith("I;16"):
        found.append(("16-bit", "16 bits a channel; the upper 8 are used"))
    if image_format != "JPEG" and _is_animated(image):
        found.append(("animated", f"{image_format} of several frames; the first is used"))
    if min(image.size) < MIN_EDGE_PIXELS:
        found.append(("small", f"{image.width} x {image.height} pixels"))
    return found


def _is_animated(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # Pillow looks at the second frame; where that is damaged its plugins raise anything
        return True

"""A source's masks on their way into a set: found beside their images, checked against them, numbered from 0.

Not here: what stands in a set (`hornet/shards/mask.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hornet.errors import UserError
from hornet.shards.build.image import MAX_CONTENT_BYTES, DroppedImageError, ImageOptions, read_orientation
from hornet.shards.build.selection import Labels, Selection
from hornet.shards.decode import UndecodableImageError
from hornet.shards.label_space import LabelSpace
from hornet.shards.mask import IGNORED, MAX_CLASSES, encode_mask, read_values


@dataclass(frozen=True, kw_only=True)
class MaskRule:
    """Where the masks of a source lie, and what their values mean."""

    folder: Path
    """Holds NAME.png for each image NAME.jpg, in the same folders below."""
    label_space: LabelSpace
    """Names of the classes, in the order of their values."""
    reduce_zero_label: bool
    """0 is no class, and class k is value k + 1, as in ADE20K; else 0 is the first class. The largest value of the
    PNG's bits (255 of 8) is no class in any case."""


@dataclass(frozen=True, kw_only=True)
class PreparedMask:
    """A mask as it goes into the tar."""

    content: bytes
    """PNG, numbered as the set's label space."""
    label: int
    """The class of the most pixels, the first of several: the sample's .cls."""


def path_of_mask(folder: Path, image: str) -> Path:
    """Return where the mask of an image lies, which is named by its path within the images' folder."""
    return folder / f"{image.rpartition('.')[0]}.png"


def prepare_mask(image: str, size: tuple[int, int], rule: MaskRule) -> PreparedMask:
    """Read and check the mask of an image of this width and height, in pixels.

    Raises DroppedImageError if there is no use in the sample: of kind `mask`, or `unlabelled` if no pixel has a class.
    """
    path = path_of_mask(rule.folder, image)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DroppedImageError("mask", f"its mask {path.name} cannot be read ({error.strerror})") from error
    if len(content) > MAX_CONTENT_BYTES:
        raise DroppedImageError("mask", f"its mask has {len(content)} bytes; {MAX_CONTENT_BYTES} are the limit")
    try:
        values, largest = read_values(content)
    except UndecodableImageError as error:
        raise DroppedImageError("mask", f"its mask is {error}") from error
    height, width = values.shape
    if (width, height) != size:
        raise DroppedImageError(
            "mask", f"its mask has {width} x {height} pixels, the image {size[0]} x {size[1]}; they must be the same"
        )
    is_none = (values == largest) | ((values == 0) if rule.reduce_zero_label else False)
    classes = np.where(is_none, IGNORED, values - rule.reduce_zero_label)
    num_classes = len(rule.label_space)
    if classes.max() >= num_classes:
        value = int(classes.max()) + rule.reduce_zero_label
        first = int(rule.reduce_zero_label)
        raise DroppedImageError(
            "mask",
            f"its mask holds the value {value}; the {num_classes} classes are {first} to {num_classes - 1 + first}, "
            f"and {largest} is none",
        )
    if is_none.all():
        raise DroppedImageError("unlabelled", "no pixel of its mask has a class")
    counts = np.bincount(classes[~is_none], minlength=num_classes)
    return PreparedMask(
        content=encode_mask(classes.astype(np.int16), num_classes=num_classes), label=int(counts.argmax())
    )


def name_pixels(given: LabelSpace | None, *, source: Path) -> Labels:
    """Return the labels of a source of masks: of the classes that are given, whichever occur.

    Raises UserError if none are given: numbers in masks have no names of their own.
    """
    if given is None:
        raise UserError(
            f"{source}: a mask holds numbers; give the names of their classes in the order of the numbers, one a line, "
            "with --classes FILE"
        )
    if len(given) > MAX_CLASSES:
        raise UserError(f"--classes: names {len(given)} classes; {MAX_CLASSES} is the limit of masks")
    return Labels(label_space=given, of_class=np.zeros(1, np.int32), dropped={}, empty=())


def describe_turn(content: bytes) -> str | None:
    """Return a remark on an encoded image that is shown otherwise than it is stored, which masks or objects may follow.

    None for nearly all.
    """
    orientation = read_orientation(content)
    if not 2 <= orientation <= 8:
        return None
    return (
        f"its EXIF data turn or mirror it where it is shown (orientation {orientation}), which nothing here does; what "
        "is marked in it must be so in the pixels as they are stored"
    )


def require_plain_images(image: ImageOptions, selection: Selection) -> None:
    """Raise UserError for options that would part images from their masks or objects, or mean nothing for these."""
    for option, is_set in (
        ("--max-short-edge", image.max_short_edge is not None),
        ("--apply-orientation", image.apply_orientation),
        ("--repair", image.repair),
    ):
        if is_set:
            raise UserError(f"{option}: would change the image and not its mask or objects; leave it out")
    for option, is_set in (
        ("--min-images-per-class", selection.min_images_per_class != 1),
        ("--other-classes", selection.other_classes != "refuse"),
    ):
        if is_set:
            raise UserError(f"{option}: is for images of one class each; leave it out for masks and objects")

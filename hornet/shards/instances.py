"""The objects of a sample: boxes, classes and outlines or masks, as JSON under the member name KEY.instances.json.

    {"image_id": 139, "height": 426, "width": 640, "annotations": [
        {"id": 1, "category": 3, "bbox": [left, top, width, height], "area": 9.5, "iscrowd": 0, "segmentation": ...}]}

Coordinates are pixels of the stored image. `category` counts in the set's label space, where 0 is the background: an
object is of class 1 or more. `segmentation` is what COCO has: polygons, or runs (`instance_masks.py`).
Not here: which image has which objects in a source (`build/sources/coco.py`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hornet.shards.decode import MAX_PIXELS
from hornet.shards.instance_masks import Polygons, Segmentation, read_segmentation

INSTANCES_EXTENSION = "instances.json"
"""What stands behind a key's first dot in the member's name."""

BACKGROUND = "background"
"""Class 0 of a set with objects: what is none, and the label of an image that shows none."""

MAX_MEMBER_BYTES = 64 << 20
MAX_ANNOTATIONS = 1000
"""Of an image, each of which has a mask in memory; COCO's fullest has 93."""


class MalformedInstancesError(Exception):
    """Objects that are not of the format, or do not fit their image, with the reason in a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """One object of an image."""

    id: int
    """Its number in the annotations that the set was made from."""
    category: int
    """Its class in the set's label space, 1 or more."""
    box: tuple[float, float, float, float]
    """Left, top, width, height in pixels; a width or height of 0 is an empty box."""
    area: float
    """Pixels of the object, by which small, medium and large are told apart."""
    is_crowd: bool
    """Whether it is a region of many objects that are not told apart."""
    segmentation: Segmentation
    """Polygons or runs, checked against the image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatedImage:
    """All objects of an image."""

    image_id: int
    """The image's number in the annotations that the set was made from."""
    height: int
    """Of the image, pixels."""
    width: int
    """Of the image, pixels."""
    annotations: tuple[Annotation, ...]
    """In the order in which they were listed."""


def parse_instances(content: bytes, *, num_classes: int) -> AnnotatedImage:
    """Read the objects of an image; what is in memory afterwards is bounded by `content` and the image's size.

    `num_classes` counts the background. Raises MalformedInstancesError.
    """
    if len(content) > MAX_MEMBER_BYTES:
        raise MalformedInstancesError(f"have {len(content)} bytes; {MAX_MEMBER_BYTES} are the limit")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise MalformedInstancesError(f"are no JSON ({type(error).__name__})") from error
    if not isinstance(value, Mapping):
        raise MalformedInstancesError("are no JSON object with image_id, height, width and annotations")
    height, width = (_read_number(value, name, "the image", least=1) for name in ("height", "width"))
    if height * width > MAX_PIXELS:
        raise MalformedInstancesError(f"are of {width} x {height} pixels; {MAX_PIXELS} are the limit")
    listed = value.get("annotations")
    if not isinstance(listed, list):
        raise MalformedInstancesError("hold no list `annotations`")
    if len(listed) > MAX_ANNOTATIONS:
        raise MalformedInstancesError(f"hold {len(listed)} annotations; {MAX_ANNOTATIONS} are the limit")
    return AnnotatedImage(
        image_id=_read_number(value, "image_id", "the image"),
        height=height,
        width=width,
        annotations=tuple(_read_annotation(one, height, width, num_classes=num_classes) for one in listed),
    )


def is_empty(annotation: Annotation) -> bool:
    """Whether an object has no pixel: a box without width or height, or only outlines without an inside."""
    segmentation = annotation.segmentation
    return min(annotation.box[2:]) <= 0 or (isinstance(segmentation, Polygons) and not segmentation.outlines)


def find_label(annotations: Iterable[Annotation]) -> int:
    """Return the class with the most area, the first of several; 0, the background, for an image without objects."""
    areas: dict[int, float] = {}
    for one in annotations:
        areas[one.category] = areas.get(one.category, 0.0) + one.area
    return min(areas, key=lambda category: (-areas[category], category), default=0)


def _read_annotation(value: Any, height: int, width: int, *, num_classes: int) -> Annotation:
    if not isinstance(value, Mapping):
        raise MalformedInstancesError("hold an annotation that is no JSON object")
    where = f"annotation {str(value.get('id'))[:40]}"
    category = _read_number(value, "category", where)
    if not 1 <= category < num_classes:
        raise MalformedInstancesError(
            f"{where}: category is {category}; the set's {num_classes - 1} classes of objects are 1 to "
            f"{num_classes - 1}"
        )
    if value.get("iscrowd", 0) not in (0, 1):
        raise MalformedInstancesError(f"{where}: iscrowd must be 0 or 1, not {str(value['iscrowd'])[:40]}")
    try:
        segmentation = read_segmentation(value.get("segmentation"), height=height, width=width)
    except ValueError as error:
        raise MalformedInstancesError(f"{where}: segmentation {error}") from error
    left, top, box_width, box_height = _read_floats(value.get("bbox"), 4, f"{where}: bbox")
    (area,) = _read_floats([value.get("area")], 1, f"{where}: area")
    return Annotation(
        id=_read_number(value, "id", where),
        category=category,
        box=(left, top, box_width, box_height),
        area=area,
        is_crowd=bool(value.get("iscrowd", 0)),
        segmentation=segmentation,
    )


def _read_number(value: Mapping[str, Any], name: str, where: str, *, least: int = 0) -> int:
    found = value.get(name)
    if type(found) is not int or not least <= found < 1 << 62:
        raise MalformedInstancesError(f"{where}: {name} must be a whole number from {least}, not {str(found)[:40]!r}")
    return found


def _read_floats(value: Any, count: int, what: str) -> Sequence[float]:
    if not isinstance(value, list) or len(value) != count:
        raise MalformedInstancesError(f"{what} must be {count} numbers, not {str(value)[:40]!r}")
    for number in value:
        if type(number) not in (int, float) or not math.isfinite(number) or abs(number) > 1e9:
            raise MalformedInstancesError(f"{what} must be finite numbers, not {str(number)[:40]!r}")
    return [float(number) for number in value]

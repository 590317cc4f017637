"""A source's objects on their way into a set: checked against their images, what has no pixel left out.

Not here: what stands in a set (`hornet/shards/instances.py`), what COCO's file is (`sources/coco.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from hornet.errors import UserError
from hornet.shards.build.image import DroppedImageError
from hornet.shards.build.selection import Labels
from hornet.shards.build.source import AnnotationFile
from hornet.shards.instance_masks import make_mask, read_segmentation
from hornet.shards.instances import BACKGROUND, MalformedInstancesError, find_label, is_empty, parse_instances
from hornet.shards.label_space import LabelSpace


@dataclass(frozen=True, kw_only=True)
class PreparedInstances:
    """An image's objects as they go into the tar."""

    content: bytes
    """JSON, see hornet/shards/instances.py."""
    label: int
    """The class of the most area, 0 for an image without objects: the sample's .cls."""
    mended: str | None
    """Which annotations were left out, if any."""


def prepare_instances(image: str, size: tuple[int, int], file: AnnotationFile) -> PreparedInstances:
    """Check the objects of an image of this width and height, in pixels, named as the file of annotations names it.

    Raises DroppedImageError, of kind `instances`, if one of them is broken: without it the image would teach that
    nothing is there.
    """
    width, height = size
    value: dict[str, Any] = json.loads(file.images[image])
    if value["width"] is None and value["height"] is None:
        value |= {"width": width, "height": height}
    if (value["width"], value["height"]) != size:
        raise DroppedImageError(
            "instances",
            f"its annotations are for {value['width']} x {value['height']} pixels, the image has {width} x {height}; "
            "they must be the same",
        )
    for one in value["annotations"]:
        if "area" not in one:
            one["area"] = _measure(one.get("segmentation"), height=height, width=width)
    try:
        annotated = parse_instances(json.dumps(value).encode(), num_classes=len(file.categories) + 1)
    except MalformedInstancesError as error:
        raise DroppedImageError("instances", f"its annotations cannot be used: {error}") from error
    pairs = list(zip(annotated.annotations, value["annotations"], strict=True))
    empty = [one.id for one, _ in pairs if is_empty(one)]
    value["annotations"] = [stored for one, stored in pairs if not is_empty(one)]
    return PreparedInstances(
        content=json.dumps(value, separators=(",", ":")).encode(),
        label=find_label(one for one, _ in pairs if not is_empty(one)),
        mended=f"{len(empty)} annotations without a pixel were left out, with the ids {empty[:20]}" if empty else None,
    )


def name_objects(file: AnnotationFile, *, name: str, there: LabelSpace | None) -> Labels:
    """Return the labels of a source with objects: the background, then its categories in the order of their ids.

    Raises UserError if the set that is `there` has others.
    """
    space = LabelSpace(name=name, classes=(BACKGROUND, *file.categories))
    if there is not None and there.fingerprint != space.fingerprint:
        raise UserError(
            f"{file.path}: its {len(file.categories)} categories are not those of the set's other splits "
            f"({len(there)} classes with the background), or stand in another order; all splits of a set share one "
            "list: choose another output folder"
        )
    return Labels(label_space=there or space, of_class=np.zeros(1, np.int32), dropped={}, empty=())


def _measure(segmentation: Any, *, height: int, width: int) -> int | None:
    try:
        read = read_segmentation(segmentation, height=height, width=width)
    except ValueError:
        return None  # which is refused with its reason
    return int(make_mask(read, height=height, width=width).sum())

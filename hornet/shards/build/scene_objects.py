"""What a composed scene shows, pixel by pixel, and its cut-outs as COCO's annotations.

Not here: how scenes are composed (`scenes.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from hornet.shards.instance_masks import encode_runs
from hornet.shards.mask import ClassMap


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An image, and what each of its pixels shows."""

    image: Image.Image
    """RGB."""
    owners: ClassMap
    """(H, W): which cut-out a pixel shows, from 1 on; 0 for none."""
    labels: tuple[int, ...]
    """Class of each cut-out, from 1 on."""

    @property
    def classes(self) -> ClassMap:
        """(H, W): class of each pixel."""
        return np.array([0, *self.labels], np.int16)[self.owners]


def describe_objects(scene: Scene) -> list[dict[str, Any]]:
    """Return a scene's cut-outs as COCO's annotations, without ids: what is seen of each; none that is all covered."""
    found = []
    for owner, label in enumerate(scene.labels, start=1):
        mask = (scene.owners == owner).astype(np.uint8)
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        if len(rows):
            left, top = int(columns[0]), int(rows[0])
            box = [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]
            shape = {"bbox": box, "area": int(mask.sum()), "segmentation": encode_runs(mask)}
            found.append({"category_id": label, "iscrowd": 0, **shape})
    return found


def list_objects(scenes: Sequence[Sequence[dict[str, Any]]], classes: Sequence[str], *, size: int) -> dict[str, Any]:
    """Return the content of COCO's file for the cut-outs of scenes in their order; all ids count from 1."""
    numbers = itertools.count(1)
    return {
        "images": [
            {"id": number, "file_name": f"scene_{number - 1:05d}.png", "height": size, "width": size}
            for number in range(1, len(scenes) + 1)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, start=1)],
        "annotations": [
            {"id": next(numbers), "image_id": image_id, **one}
            for image_id, objects in enumerate(scenes, start=1)
            for one in objects
        ],
    }

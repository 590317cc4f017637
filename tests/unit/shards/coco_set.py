"""Small sets of COCO's kind: coloured rectangles and discs, whose annotations are polygons, runs and packed runs."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from hornet.shards.build.build import build
from hornet.shards.build.plan import BuildPlan

CATEGORIES = [{"id": 90, "name": "blue"}, {"id": 1, "name": "red"}, {"id": 3, "name": "green"}]
"""In no order, and with gaps in their ids."""
COLOURS = {1: (255, 0, 0), 3: (0, 255, 0), 90: (0, 0, 255)}
NEGATIVE = 4
"""Of so many images one has no annotation."""


def make_disc(height: int, width: int, *, x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.ogrid[:height, :width]
    return ((rows + 0.5 - y) ** 2 + (columns + 0.5 - x) ** 2 < radius**2).astype(np.uint8)


def annotate(mask: np.ndarray, *, number: int, image_id: int, category_id: int, kind: str) -> dict[str, Any]:
    """The annotation of a mask as pycocotools makes it; `kind` is runs, packed or crowd."""
    packed = coco_mask.encode(np.asfortranarray(mask))
    flat = [0, *mask.reshape(-1, order="F").tolist()]
    changes = [place for place in range(1, len(flat)) if flat[place] != flat[place - 1]]
    counts = np.diff([0, *(place - 1 for place in changes), mask.size]).tolist()
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": coco_mask.toBbox(packed).tolist(),
        "area": int(mask.sum()),
        "iscrowd": int(kind == "crowd"),
        "segmentation": {
            "size": list(mask.shape),
            "counts": packed["counts"].decode() if kind == "packed" else counts,
        },
    }


def outline(box: tuple[float, float, float, float], *, number: int, image_id: int, category_id: int) -> dict[str, Any]:
    """The annotation of a rectangle (left, top, width, height) as one polygon."""
    left, top, width, height = box
    right, bottom = left + width, top + height
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": list(box),
        "area": width * height,
        "iscrowd": 0,
        "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
    }


def make_annotations(num_images: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A file's content, and the pixels of each image by its name."""
    value: dict[str, Any] = {
        "info": {},
        "licenses": [],
        "categories": copy.deepcopy(CATEGORIES),
        "images": [],
        "annotations": [],
    }
    pixels: dict[str, np.ndarray] = {}
    for position in range(num_images):
        height, width, image_id, name = 40 + 3 * position, 60, 7 + 10 * position, f"{position:012d}.png"
        image = np.full((height, width, 3), 128, np.uint8)
        value["images"].append({"id": image_id, "file_name": name, "height": height, "width": width})
        pixels[name] = image
        if position % NEGATIVE == NEGATIVE - 1:
            continue
        first = 100 * position
        listed = [
            outline((4 + position, 5, 20, 10), number=first, image_id=image_id, category_id=90),
            annotate(
                make_disc(height, width, x=40, y=20, radius=8 + position % 3),
                number=first + 1,
                image_id=image_id,
                category_id=(1, 3)[position % 2],
                kind=("runs", "packed")[position % 2],
            ),
        ]
        if position % 3 == 0:
            crowd = make_disc(height, width, x=10, y=32, radius=5)
            listed.append(
                annotate(crowd, number=first + 2, image_id=image_id, category_id=3, kind="crowd"),
            )
        for one in listed:
            left, top, box_width, box_height = (round(edge) for edge in one["bbox"])
            image[top : top + box_height, left : left + box_width] = COLOURS[one["category_id"]]
        value["annotations"] += listed[::-1]
    return value, pixels


def write_coco(
    folder: Path,
    *,
    num_images: int = 9,
    split: str = "train2017",
    change: Callable[[dict[str, Any]], object] | None = None,
) -> Path:
    """COCO's layout; `change` may spoil the annotations before they are written."""
    value, pixels = make_annotations(num_images)
    for name, image in pixels.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / split / name)
    if change is not None:
        change(value)
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / f"annotations/instances_{split}.json").write_text(json.dumps(value))
    return folder


def plan(source: Path, **changes: Any) -> BuildPlan:
    values = {"source": source, "output": source.parent / "set", "name": "squares", "num_workers": 1}
    return BuildPlan(**(values | changes))


def build_set(folder: Path, *, num_images: int = 9, samples_per_shard: int = 4) -> Path:
    """Splits train and validation of the same images; return the set's folder."""
    source = write_coco(folder / "source", num_images=num_images)
    for split in ("train", "validation"):
        build(plan(source, split=split, samples_per_shard=samples_per_shard))
    return folder / "set"

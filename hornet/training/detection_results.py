"""Detections as COCO's server and pycocotools' `loadRes` take them: lists of JSON objects, with COCO's own ids.

Boxes and masks go into a file each. A reader that finds a box takes the area of that for the area of the object, and
the mask AP of small, medium and large objects would be another.
Source: cocodataset.org, "results format", and cocodataset/cocoapi (coco.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from hornet.durable import replacing
from hornet.errors import UserError
from hornet.training.average_precision import FoundInImage

FILES: Mapping[str, str] = {"bbox": "bbox.json", "segmentation": "segm.json"}
"""The key that says where an object is -> the file of its task, by COCO's name for that."""


@dataclass(frozen=True, kw_only=True)
class DetectionResults:
    """Where detections are written, and how COCO calls their classes."""

    folder: Path
    """Where bbox.json and segm.json are written; made if it is not there."""
    category_ids: Sequence[int]
    """COCO's id of each class, that of class 1 first."""

    def prepare(self) -> None:
        """Make the folder, before anything is computed; raises UserError if that cannot be."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._describe(error) from error

    def write(self, images: Sequence[FoundInImage]) -> None:
        """Write what was found in all images of a set, each file whole or not at all. Raises UserError."""
        for first, second in pairwise(images):
            if first.image_id == second.image_id:
                raise UserError(
                    f"results: two images of the set have the id {first.image_id}, so what is found in them could not "
                    "be told apart; evaluate sets of different origin one by one"
                )
        try:
            for key, name in FILES.items():
                with replacing(self.folder / name) as temporary, temporary.open("w") as file:
                    # The runs of masks are bytes in memory, and text in a file.
                    encode = partial(json.dumps, allow_nan=False, default=bytes.decode)
                    lines = map(encode, self._list(images, key))
                    file.write("[" + next(lines, ""))
                    file.writelines(f",\n{line}" for line in lines)
                    file.write("]\n")
        except OSError as error:
            raise self._describe(error) from error

    def _list(self, images: Sequence[FoundInImage], key: str) -> Iterator[dict[str, Any]]:
        for image in images:
            for one in image.found:
                yield {
                    "image_id": image.image_id,
                    "category_id": self.category_ids[one["category_id"] - 1],
                    "score": one["score"],
                    key: one[key],
                }

    def _describe(self, error: OSError) -> UserError:
        return UserError(f"results: {self.folder} cannot be written ({error.strerror}); name another folder")


def read_category_ids(origin: Mapping[str, Any], *, num_classes: int, name: str) -> tuple[int, ...]:
    """Return COCO's ids of the classes 1 and on of a split; raises UserError if its manifest does not say them.

    `num_classes` counts the background, `name` is the set's.
    """
    ids = origin.get("category_ids")
    is_usable = isinstance(ids, list) and len(ids) == num_classes - 1 and all(type(one) is int for one in ids)
    if not isinstance(ids, list) or not is_usable:
        raise UserError(
            f"results: the manifest of {name} does not say which ids COCO has for its {num_classes - 1} classes "
            "(origin.category_ids); build the set anew from its annotations"
        )
    return tuple(ids)

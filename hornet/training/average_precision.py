"""Average precision of a detector over a set: boxes and masks, COCO's measures by faster-coco-eval.

Every image is counted exactly once: each rank keeps what was found in its images, all ranks get all of it, and each
puts the images into the order of their ids before it counts. So the result is the same on any number of ranks, to the
last digit. Source of the measures: Lin et al. 2014 (arXiv 1405.0312) and cocodataset/cocoapi (cocoeval.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hornet.batch import Instances
from hornet.errors import UserError
from hornet.shards.instance_masks import Mask, make_mask
from hornet.shards.instances import parse_instances
from hornet.training.process_group import gather_from_all, sum_over_ranks

Kind = Literal["segm", "bbox"]


@dataclass(frozen=True, kw_only=True)
class DetectionEvaluation:
    """The result over the whole set, in percent; classes that no image has an object of are left out of the means.

    AP is the mean over overlaps (IoU) of 0.5 to 0.95 in steps of 0.05, AP50 and AP75 are at one; of at most 100
    detections of a class an image. None where the set has no object of such a size or class.
    """

    mask_ap: float
    """Average precision of masks; 0 for a set without objects."""
    mask_ap50: float
    """At an overlap of 0.5."""
    mask_ap75: float
    """At an overlap of 0.75."""
    box_ap: float
    """Average precision of boxes."""
    box_ap50: float
    """At an overlap of 0.5."""
    box_ap75: float
    """At an overlap of 0.75."""
    mask_ar: float
    """Average recall of masks, of the 100 detections of an image."""
    box_ar: float
    """Average recall of boxes, likewise."""
    mask_ap_small: float | None
    """Of objects of less than 32 x 32 pixels of the stored image."""
    mask_ap_medium: float | None
    """Of objects between these."""
    mask_ap_large: float | None
    """Of objects of 96 x 96 pixels or more."""
    box_ap_small: float | None
    """As mask_ap_small."""
    box_ap_medium: float | None
    """As mask_ap_medium."""
    box_ap_large: float | None
    """As mask_ap_large."""
    num_images: int
    """Images counted."""
    num_bad_images: int
    """Images that could not be read, or their objects; they are left out."""
    class_mask_ap: tuple[float | None, ...]
    """Average precision of masks of each class of objects, in the order of the labels, from 1 on."""
    class_box_ap: tuple[float | None, ...]
    """Average precision of boxes, likewise."""


@dataclass(frozen=True, kw_only=True)
class FoundInImage:
    """What is in an image, and what was found there; masks packed as COCO packs them."""

    image_id: int
    """Its number in the annotations that the set was made from."""
    size: tuple[int, int]
    """Height and width, pixels, as stored."""
    truth: list[dict[str, Any]]
    """COCO's annotations, with classes (1 and on) in place of COCO's ids."""
    found: list[dict[str, Any]]
    """Detections likewise: category_id, score, bbox (left, top, width, height), segmentation."""


@dataclass(frozen=True, kw_only=True)
class _Measures:
    """Of masks or of boxes."""

    ap: float
    ap50: float
    ap75: float
    small: float | None
    medium: float | None
    large: float | None
    ar: float
    of_class: tuple[float | None, ...]


class AveragePrecision:
    """What one model found in this rank's images, judged over those of all ranks at the end."""

    def __init__(self, num_classes: int) -> None:
        """Begin to count, for a set of so many classes with the background; raises UserError without the library."""
        self._num_classes = num_classes
        self._library = _import_library()
        self._images: list[FoundInImage] = []
        self._num_bad = 0
        self.gathered: Sequence[FoundInImage] = ()
        """After `finish`, on every rank: the images of all ranks, each once, in the order of their ids."""

    def add(self, truth: Instances, *, boxes: Tensor, scores: Tensor, labels: Tensor, masks: Tensor) -> None:
        """Count an image that evaluation has read, and the detections in it, in pixels of the stored image.

        `boxes` (n, 4) are left, top, right, bottom; `scores` (n,); `labels` (n,) from 1 on; `masks` (n, H, W), not 0
        where the object is. Of equal scores the first counts first.
        """
        height, width = truth.original_size
        if tuple(masks.shape) != (len(boxes), height, width):
            raise ValueError(f"masks of shape {tuple(masks.shape)} for {len(boxes)} boxes in {height} x {width} pixels")
        annotated = parse_instances(truth.annotations, num_classes=self._num_classes)
        corners = boxes.detach().cpu().double()
        sides = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1).tolist()
        packed = self._pack(mask.numpy() for mask in (masks.detach() != 0).to(torch.uint8).cpu())
        found = [
            {"category_id": label, "score": score, "bbox": box, "segmentation": mask}
            for label, score, box, mask in zip(labels.tolist(), scores.tolist(), sides, packed, strict=True)
        ]
        rasters = self._pack(make_mask(one.segmentation, height=height, width=width) for one in annotated.annotations)
        there = [
            {
                "category_id": one.category,
                "bbox": list(one.box),
                "area": one.area,
                "iscrowd": int(one.is_crowd),
                "segmentation": mask,
            }
            for one, mask in zip(annotated.annotations, rasters, strict=True)
        ]
        self._images.append(FoundInImage(image_id=truth.image_id, size=(height, width), truth=there, found=found))

    def add_bad(self, num_images: int) -> None:
        """Count images that could not be read."""
        self._num_bad += num_images

    def finish(self) -> DetectionEvaluation:
        """Return the result over all ranks. Collective."""
        num_bad = int(sum_over_ranks(torch.tensor(self._num_bad)))
        images = sorted((one for part in gather_from_all(self._images) for one in part), key=lambda one: one.image_id)
        self.gathered = images
        masks, boxes = (self._measure(images, kind) for kind in ("segm", "bbox"))
        return DetectionEvaluation(
            mask_ap=masks.ap,
            mask_ap50=masks.ap50,
            mask_ap75=masks.ap75,
            box_ap=boxes.ap,
            box_ap50=boxes.ap50,
            box_ap75=boxes.ap75,
            mask_ar=masks.ar,
            box_ar=boxes.ar,
            mask_ap_small=masks.small,
            mask_ap_medium=masks.medium,
            mask_ap_large=masks.large,
            box_ap_small=boxes.small,
            box_ap_medium=boxes.medium,
            box_ap_large=boxes.large,
            num_images=len(images),
            num_bad_images=num_bad,
            class_mask_ap=masks.of_class,
            class_box_ap=boxes.of_class,
        )

    def _pack(self, masks: Iterable[Mask]) -> list[dict[str, Any]]:
        return [self._library.mask.encode(np.asfortranarray(mask)) for mask in masks]

    def _measure(self, images: Sequence[FoundInImage], kind: Kind) -> _Measures:
        categories = range(1, self._num_classes)
        if not any(one.truth for one in images):
            return _Measures(
                ap=0.0,
                ap50=0.0,
                ap75=0.0,
                small=None,
                medium=None,
                large=None,
                ar=0.0,
                of_class=(None,) * len(categories),
            )
        # Numbered from 1: to COCO's code an annotation of id 0 is none. The library writes into what it is given.
        sized = list(enumerate(images, start=1))
        truth = [one | {"image_id": number} for number, image in sized for one in image.truth]
        found = [one | {"image_id": number} for number, image in sized for one in image.found]
        if kind == "segm":  # without boxes the area of a detection is that of its mask
            found = [{key: value for key, value in one.items() if key != "bbox"} for one in found]
        dataset = {
            "images": [{"id": number, "height": one.size[0], "width": one.size[1]} for number, one in sized],
            "categories": [{"id": category, "name": str(category)} for category in categories],
            "annotations": [one | {"id": number} for number, one in enumerate(truth, start=1)],
        }
        listed = self._library.COCO(dataset)
        counted = self._library.COCOeval_faster(listed, listed.loadRes(found), kind, print_function=_say_nothing)
        counted.evaluate()
        counted.accumulate()
        counted.summarize()
        ap, ap50, ap75, small, medium, large, _, _, ar = (_to_percent(value) for value in counted.stats[:9])
        precision = counted.eval["precision"][:, :, :, 0, -1]  # overlap, recall, class; all sizes, 100 detections
        return _Measures(
            ap=ap or 0.0,
            ap50=ap50 or 0.0,
            ap75=ap75 or 0.0,
            small=small,
            medium=medium,
            large=large,
            ar=ar or 0.0,
            of_class=tuple(_average(precision[:, :, number]) for number in range(len(categories))),
        )


def _import_library() -> Any:
    try:
        import faster_coco_eval  # an extra's, and only detectors are measured by it
    except ModuleNotFoundError as error:
        raise UserError(
            f"average precision needs what is not installed ({error.name}); run `pip install 'faster-coco-eval>=1.7'`, "
            "or `pip install '.[dense]'` in the repository"
        ) from error
    return faster_coco_eval


def _average(values: np.ndarray[Any, np.dtype[np.float64]]) -> float | None:
    there = values[values > -1]
    return 100 * float(there.mean()) if there.size else None


def _to_percent(value: float) -> float | None:
    return None if value < 0 else 100 * float(value)


def _say_nothing(*_: object) -> None:
    """Take the library's tables, which `DetectionEvaluation` replaces."""

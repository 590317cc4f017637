"""Image and objects together: scale and flip, drawn for each sample by key; boxes and masks at the size they end in.

Source: the train pipeline of the original's object_detection/configs (raoyongming/HorNet at ac9e210), whose parts are
mmdetection's. Masks are drawn at the stored size and resized to the nearest pixel.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from hornet.data.augment.segmentation import Key, Pixels
from hornet.data.instances_config import InstanceTransformConfig
from hornet.seeding import derive_seed
from hornet.shards.decode import UndecodableImageError, decode_image
from hornet.shards.instance_masks import Mask, make_mask
from hornet.shards.instances import AnnotatedImage, Annotation, MalformedInstancesError, parse_instances


@dataclass(frozen=True, kw_only=True)
class ImageWithObjects:
    """An image and its objects, at the size they are learned or looked at."""

    pixels: Pixels
    """(H, W, 3)."""
    image_id: int
    """See AnnotatedImage."""
    original_size: tuple[int, int]
    """Height and width, pixels, as stored."""
    boxes: npt.NDArray[np.float32]
    """(n, 4): left, top, right, bottom."""
    labels: npt.NDArray[np.int64]
    """(n,), 1 or more."""
    masks: Mask
    """(n, H, W)."""
    is_crowd: npt.NDArray[np.bool_]
    """(n,)."""
    num_empty: int
    """Objects that were left out since their box is empty at this size."""
    content: bytes
    """What the objects were read from, if it is wanted."""


class InstanceTransform:
    """The training transform of one config, for a set of so many classes with the background."""

    def __init__(self, config: InstanceTransformConfig, *, num_classes: int) -> None:
        self.config = config
        self._num_classes = num_classes

    def __call__(self, image: bytes, objects: bytes, *, key: Key) -> ImageWithObjects:
        """Return an image with its objects, crowds left out; raises UndecodableImageError."""
        config, draw = self.config, random.Random(derive_seed("instances", *key))
        short_edge = draw.choice(config.short_edges)
        is_mirrored = draw.random() < config.flip_probability
        pixels, annotated = decode_with_objects(image, objects, num_classes=self._num_classes)
        listed = [one for one in annotated.annotations if not one.is_crowd]
        size = fit_short_edge(annotated.width, annotated.height, short=short_edge, long=config.max_long_edge)
        return _place(pixels, annotated, listed, size=size, is_mirrored=is_mirrored, content=b"")


class InstanceEvaluationTransform:
    """Scale alone; crowds stay, and what the objects were read from goes along."""

    def __init__(self, *, short_edge: int, max_long_edge: int, num_classes: int) -> None:
        self._edges = short_edge, max_long_edge
        self._num_classes = num_classes

    def __call__(self, image: bytes, objects: bytes) -> ImageWithObjects:
        """Return an image with all its objects; raises UndecodableImageError."""
        short, long = self._edges
        pixels, annotated = decode_with_objects(image, objects, num_classes=self._num_classes)
        size = fit_short_edge(annotated.width, annotated.height, short=short, long=long)
        return _place(pixels, annotated, annotated.annotations, size=size, is_mirrored=False, content=objects)


def decode_with_objects(image: bytes, objects: bytes, *, num_classes: int) -> tuple[Pixels, AnnotatedImage]:
    """Return (H, W, 3) pixels and their objects; raises UndecodableImageError if they do not fit."""
    pixels = np.asarray(decode_image(image))
    try:
        annotated = parse_instances(objects, num_classes=num_classes)
    except MalformedInstancesError as error:
        raise UndecodableImageError(f"its objects cannot be used: {error}") from error
    if pixels.shape[:2] != (annotated.height, annotated.width):
        raise UndecodableImageError(
            f"its objects are for {annotated.width} x {annotated.height} pixels, the image has {pixels.shape[1]} x "
            f"{pixels.shape[0]}"
        )
    return pixels, annotated


def fit_short_edge(width: int, height: int, *, short: int, long: int) -> tuple[int, int]:
    """Return width and height of an image whose shorter edge is `short`, or less if the longer would exceed `long`."""
    factor = min(short / min(width, height), long / max(width, height))
    return max(1, int(width * factor + 0.5)), max(1, int(height * factor + 0.5))


def _place(
    pixels: Pixels,
    annotated: AnnotatedImage,
    listed: Sequence[Annotation],
    *,
    size: tuple[int, int],
    is_mirrored: bool,
    content: bytes,
) -> ImageWithObjects:
    """Bring image, boxes and masks to a width and height."""
    width, height = size
    boxes = _scale_boxes(listed, annotated, size=size, is_mirrored=is_mirrored)
    is_kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    kept = [one for one, is_there in zip(listed, is_kept.tolist(), strict=True) if is_there]
    # Nearest at the middle of each new pixel, as `resize_pair` does it.
    rows = ((np.arange(height) + 0.5) * annotated.height / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * annotated.width / width).astype(np.int64)
    masks = np.zeros((len(kept), height, width), np.uint8)
    for number, one in enumerate(kept):
        mask = make_mask(one.segmentation, height=annotated.height, width=annotated.width)
        masks[number] = mask[rows[:, None], columns[::-1] if is_mirrored else columns]
    if (height, width) != pixels.shape[:2]:
        pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    return ImageWithObjects(
        pixels=pixels[:, ::-1] if is_mirrored else pixels,
        image_id=annotated.image_id,
        original_size=(annotated.height, annotated.width),
        boxes=boxes[is_kept],
        labels=np.array([one.category for one in kept], np.int64),
        masks=masks,
        is_crowd=np.array([one.is_crowd for one in kept], np.bool_),
        num_empty=len(listed) - len(kept),
        content=content,
    )


def _scale_boxes(
    listed: Sequence[Annotation], annotated: AnnotatedImage, *, size: tuple[int, int], is_mirrored: bool
) -> npt.NDArray[np.float32]:
    """Return left, top, right, bottom of each box, within the image of the new width and height."""
    edges: npt.NDArray[np.float64] = np.array([one.box for one in listed], np.float64).reshape(-1, 4)
    edges[:, 2:] += edges[:, :2]
    stored = np.array([annotated.width, annotated.height] * 2)
    edges = np.clip(edges, 0, stored) * (np.array([*size, *size]) / stored)
    if is_mirrored:
        edges[:, [0, 2]] = size[0] - edges[:, [2, 0]]
    return edges.astype(np.float32)

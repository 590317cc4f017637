"""Image and objects together: scale, crop, flip, drawn for each sample by key; boxes and masks at the size they end in.

Source: the train pipeline of the original's object_detection/configs (raoyongming/HorNet at ac9e210), whose parts are
mmdetection's. Masks are rasterised at the stored size and resized to the nearest pixel. As there, a crop may hold no
object, and the box of an object of which it shows a part is the part of its box, which may be larger than what is seen.
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
    """Objects that were left out since nothing is left of their box, or no pixel of them in a crop."""
    content: bytes
    """What the objects were read from, if it is wanted."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What is seen of an image: it is scaled, a window is cut out, scaled in turn, and mirrored. All in pixels."""

    scaled: tuple[int, int]
    """Width and height of the whole image before the cut."""
    window: tuple[int, int, int, int]
    """Left, top, width, height of what is cut out."""
    size: tuple[int, int]
    """Width and height at the end."""
    is_mirrored: bool
    """Left and right."""

    @property
    def is_cropped(self) -> bool:
        """Whether the window is a part of the image."""
        return self.window != (0, 0, *self.scaled)


def view_whole(size: tuple[int, int], *, is_mirrored: bool) -> View:
    """Return the view of all of an image at a width and height."""
    return View(scaled=size, window=(0, 0, *size), size=size, is_mirrored=is_mirrored)


class InstanceTransform:
    """The training transform of one config, for a set of so many classes with the background."""

    def __init__(self, config: InstanceTransformConfig, *, num_classes: int) -> None:
        self.config = config
        self._num_classes = num_classes

    def __call__(self, image: bytes, objects: bytes, *, key: Key) -> ImageWithObjects:
        """Return an image with its objects, crowds left out; raises UndecodableImageError."""
        draw = random.Random(derive_seed("instances", *key))
        pixels, annotated = decode_with_objects(image, objects, num_classes=self._num_classes)
        listed = [one for one in annotated.annotations if not one.is_crowd]
        view = draw_view(annotated.width, annotated.height, self.config, draw)
        return _transform(pixels, annotated, listed, view=view, content=b"")


def draw_view(width: int, height: int, config: InstanceTransformConfig, draw: random.Random) -> View:
    """Draw what is seen of an image of that size; crops come last, so that they change no other draw."""
    short_edge = draw.choice(config.short_edges)
    is_mirrored = draw.random() < config.flip_probability
    crop = config.crop
    if crop is None or draw.random() >= crop.probability:
        size = fit_short_edge(width, height, short=short_edge, long=config.max_long_edge)
        return view_whole(size, is_mirrored=is_mirrored)
    scaled = fit_short_edge(width, height, short=draw.choice(crop.short_edges), long=config.max_long_edge)
    lengths = [draw.randint(min(edge, crop.min_edge), min(edge, crop.max_edge)) for edge in scaled]
    left, top = (draw.randint(0, edge - length) for edge, length in zip(scaled, lengths, strict=True))
    return View(
        scaled=scaled,
        window=(left, top, lengths[0], lengths[1]),
        size=fit_short_edge(lengths[0], lengths[1], short=short_edge, long=config.max_long_edge),
        is_mirrored=is_mirrored,
    )


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
        view = view_whole(size, is_mirrored=False)
        return _transform(pixels, annotated, annotated.annotations, view=view, content=objects)


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


def _transform(
    pixels: Pixels, annotated: AnnotatedImage, listed: Sequence[Annotation], *, view: View, content: bytes
) -> ImageWithObjects:
    """Bring image, boxes and masks to what is seen."""
    boxes = _transform_boxes(listed, annotated, view)
    is_kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    kept = [one for one, is_there in zip(listed, is_kept.tolist(), strict=True) if is_there]
    boxes, masks = boxes[is_kept], _transform_masks(kept, annotated, view)
    if view.is_cropped:  # a box of which a corner is seen may hold no pixel of its object
        is_seen = np.array([mask.any() for mask in masks], np.bool_)
        boxes, masks = boxes[is_seen], masks[is_seen]
        kept = [one for one, is_there in zip(kept, is_seen.tolist(), strict=True) if is_there]
    return ImageWithObjects(
        pixels=_transform_pixels(pixels, view),
        image_id=annotated.image_id,
        original_size=(annotated.height, annotated.width),
        boxes=boxes,
        labels=np.array([one.category for one in kept], np.int64),
        masks=masks,
        is_crowd=np.array([one.is_crowd for one in kept], np.bool_),
        num_empty=len(listed) - len(kept),
        content=content,
    )


def _transform_pixels(pixels: Pixels, view: View) -> Pixels:
    """Return an image resized bilinearly, twice around a cut, as the original does it."""
    pixels = _resize(pixels, view.scaled)
    left, top, width, height = view.window
    pixels = _resize(pixels[top : top + height, left : left + width], view.size)
    return pixels[:, ::-1] if view.is_mirrored else pixels


def _resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


def _transform_masks(listed: Sequence[Annotation], annotated: AnnotatedImage, view: View) -> Mask:
    """Return the masks (n, H, W), of the stored pixel nearest to the middle of each, as `resize_pair` does it."""
    left, top, _, _ = view.window
    columns, rows = (
        (((np.arange(size) + 0.5) * (length / size) + start) * stored / scaled).astype(np.int64)
        for size, length, start, stored, scaled in zip(
            view.size, view.window[2:], (left, top), (annotated.width, annotated.height), view.scaled, strict=True
        )
    )
    masks = np.zeros((len(listed), len(rows), len(columns)), np.uint8)
    for number, one in enumerate(listed):
        mask = make_mask(one.segmentation, height=annotated.height, width=annotated.width)
        masks[number] = mask[:, columns[::-1] if view.is_mirrored else columns][rows]  # 4 times as fast as at once
    return masks


def _transform_boxes(listed: Sequence[Annotation], annotated: AnnotatedImage, view: View) -> npt.NDArray[np.float32]:
    """Return left, top, right, bottom of what is seen of each box."""
    edges: npt.NDArray[np.float64] = np.array([one.box for one in listed], np.float64).reshape(-1, 4)
    edges[:, 2:] += edges[:, :2]
    stored = np.array([annotated.width, annotated.height] * 2)
    edges = np.clip(edges, 0, stored) * (np.array(view.scaled * 2) / stored)
    left, top, width, height = view.window
    window = np.array([width, height] * 2)
    edges = np.clip(edges - np.array([left, top] * 2), 0, window) * (np.array(view.size * 2) / window)
    if view.is_mirrored:
        edges[:, [0, 2]] = view.size[0] - edges[:, [2, 0]]
    return edges.astype(np.float32)

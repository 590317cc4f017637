"""Batch: the one type that data and training share, and the objects of its images."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class BadSample:
    """A sample that could not be used, and what took its place."""

    shard: str
    """The tar's file name."""
    offset: int
    """Byte offset of the sample's image member in the tar."""
    key: str
    """`SHARD/STEM`, or `SHARD/@OFFSET` when the member's name itself cannot be read."""
    epoch: int
    """The epoch in which it was met, 0-based."""
    reason: str
    """One line: what went wrong."""
    substitute: str
    """Key of the sample that stands in its place in the batch."""


@dataclass(frozen=True, kw_only=True)
class Instances:
    """The annotated objects of one image of a batch, on the host."""

    size: tuple[int, int]
    """Height and width, pixels, of the image within the batch; what is right of it and below is padding."""
    original_size: tuple[int, int]
    """Height and width, pixels, of the image as it is stored."""
    image_id: int
    """The image's number in the annotations that the set was made from."""
    boxes: Tensor
    """float32 (n, 4): left, top, right, bottom in pixels of `size`."""
    labels: Tensor
    """int64 (n,), classes of the set's label space; never 0, which is the background."""
    masks: Tensor
    """uint8 (n, H, W) of `size`: 1 where the object is."""
    iscrowd: Tensor
    """bool (n,): a region of many objects that are not told apart. There are none in training."""
    num_empty: int
    """Annotations that were left out since their box is empty at this size."""
    annotations: bytes
    """In evaluation, the sample's .instances.json as it stands in its tar, of the stored size; else empty."""

    def pin_memory(self) -> Instances:
        """Return the same in page-locked memory."""
        return _pin(self)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro batch of one rank, on the host, as the workers made it: no float before the device."""

    images_bchw: Tensor
    """uint8 (B, 3, H, W), channels-last in memory: decoded, cropped and augmented, not yet normalised."""
    labels: Tensor
    """int64 (B,), class indices in the set's label space."""
    erase_boxes: Tensor
    """int32 (B, 4): top, left, height, width of the rectangle to fill with noise, in pixels; height 0 for none."""
    key_hashes: Tensor
    """int64 (B,): first 8 bytes of SHA-256 of `SHARD/STEM`, big-endian, as a signed number (for `batch_digest`)."""
    keys: tuple[str, ...]
    """`SHARD/STEM` of each sample; empty where `is_real` is False."""
    is_real: Tensor
    """bool (B,): False where evaluation padded the batch so that all ranks have as many; always True in training."""
    bad_samples: tuple[BadSample, ...]
    """Samples of this batch that were replaced."""
    masks_bhw: Tensor | None = None
    """int16 (B, H, W), of semantic segmentation: the class of each pixel, -1 for none; `labels` are then the class of
    the most pixels. In evaluation a mask has the size of its image as well."""
    instances: tuple[Instances, ...] | None = None
    """Of instance segmentation: the objects of each image, none where `is_real` is False; `labels` are then the class
    that has the most area, 0 for an image without objects."""

    def __len__(self) -> int:
        return len(self.labels)

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, from which devices copy by themselves; DataLoader calls this."""
        pinned = _pin(self)
        if self.instances is None:
            return pinned
        return replace(pinned, instances=tuple(found.pin_memory() for found in self.instances))


Held = TypeVar("Held", Instances, Batch)


def _pin(held: Held) -> Held:
    values = {field.name: getattr(held, field.name) for field in fields(held)}
    pinned: dict[str, Any] = {name: value.pin_memory() for name, value in values.items() if isinstance(value, Tensor)}
    return replace(held, **pinned)

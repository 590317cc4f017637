"""Picks to Batch, inside a worker: read, check, decode, transform; what cannot be used is replaced and reported.

What a slot of a batch holds is a function of (seed, epoch, sample) alone, the substitute of a bad sample included, so
it matters to no result which worker or rank does the work.
"""

from __future__ import annotations

import io
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from hornet.batch import BadSample, Batch
from hornet.data.augment.instances import ImageWithObjects
from hornet.data.augment.jpeg import Pixels
from hornet.data.augment.sampling import NO_BOX, Box, unchanged_randomness
from hornet.data.augment.transforms import EvaluationTransform, TrainTransform
from hornet.data.substitutes import MAX_SUBSTITUTES, list_substitutes
from hornet.digest import hash_key
from hornet.errors import UserError
from hornet.shards.decode import UndecodableImageError
from hornet.shards.mask import ClassMap
from hornet.shards.reader import ShardReader, UnreadableSampleError
from hornet.shards.shard_set import ShardSet

Pick = tuple[int, int]
"""Epoch and sample."""

Corrupt = Callable[..., Pixels]
"""Makes of (H, W, 3) pixels, by their `key`, an image that is harder to recognise: a Corruption."""

PADDING = -1
"""In place of a sample: a slot that evaluation leaves empty."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What a worker hands over in place of a batch when the run cannot go on; a plain sentence for the user."""

    message: str


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A sample after its transform, not yet in a batch."""

    key: str
    """`SHARD/STEM`."""
    label: int
    """In the set's label space."""
    pixels: Pixels
    """(H, W, 3)."""
    box: Box = NO_BOX
    """Top, left, height, width of the rectangle to erase, in pixels; height 0 for none."""
    classes: ClassMap | None = None
    """(H, W) class of each pixel, of segmentation alone."""
    objects: ImageWithObjects | None = None
    """Image and objects, of instance segmentation alone."""


class Slots(Protocol):
    """A batch under construction."""

    bad: list[BadSample]
    """Samples that could not be used, and what took their place."""

    def fill(self, slot: int, image: Decoded) -> None:
        """Put a sample into its place."""

    def finish(self) -> Batch:
        """Return the batch, once its samples are in it."""


class SquareSlots:
    """A batch of squares of one size under construction; see Slots."""

    def __init__(self, count: int, *, image_size: int, has_masks: bool = False) -> None:
        self.masks = torch.zeros(count, image_size, image_size, dtype=torch.int16) if has_masks else None
        self.images = allocate(count, image_size, image_size, 3)
        self.labels = torch.zeros(count, dtype=torch.int64)
        self.boxes = torch.zeros(count, 4, dtype=torch.int32)
        self.hashes = torch.zeros(count, dtype=torch.int64)
        self.keys = [""] * count
        self.is_real = torch.zeros(count, dtype=torch.bool)
        self.bad: list[BadSample] = []
        self._pixels = self.images.numpy()

    def fill(self, slot: int, image: Decoded) -> None:
        """See Slots."""
        self._pixels[slot] = image.pixels
        if self.masks is not None:
            self.masks.numpy()[slot] = image.classes
        self.labels[slot] = image.label
        self.boxes[slot] = torch.tensor(image.box, dtype=torch.int32)
        self.hashes[slot] = hash_key(image.key)
        self.keys[slot] = image.key
        self.is_real[slot] = True

    def finish(self) -> Batch:
        """See Slots."""
        return Batch(
            images_bchw=self.images.permute(0, 3, 1, 2),
            labels=self.labels,
            erase_boxes=self.boxes,
            key_hashes=self.hashes,
            keys=tuple(self.keys),
            is_real=self.is_real,
            bad_samples=tuple(self.bad),
            masks_bhw=self.masks,
        )


def allocate(*shape: int) -> Tensor:
    """Return uint8 zeros; in a worker, in the shared memory in which they will go to the main process."""
    if get_worker_info() is None:
        return torch.zeros(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(math.prod(shape))
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape).zero_()


class Batches(Dataset[Batch | Failure]):
    """A dataset of whole batches, as a stream asks for them."""

    def __init__(self, shards: ShardSet) -> None:
        self._shards = shards
        self._reader = ShardReader(shards)

    @abstractmethod
    def __getitems__(self, picks: Sequence[Any]) -> Batch | Failure:
        """Make one batch: of epoch and sample each to train on, of samples or PADDING to evaluate."""

    def close(self) -> None:
        """Close the tars that this process has open."""
        self._reader.close()


class SeededBatches(Batches):
    """Micro batches for training, by their picks."""

    image_size: int
    """Edge of the square images, pixels; of images of several sizes, the longest edge."""
    has_masks = False
    """Whether the classes are those of pixels."""

    def __init__(self, shards: ShardSet, *, seed: int) -> None:
        super().__init__(shards)
        self._seed = seed

    @abstractmethod
    def load(self, sample: int, *, epoch: int) -> Decoded:
        """Read and transform one sample; raises UnreadableSampleError."""

    def make_slots(self, count: int) -> Slots:
        """Return an empty micro batch."""
        return SquareSlots(count, image_size=self.image_size, has_masks=self.has_masks)

    def __getitems__(self, picks: Sequence[Pick]) -> Batch | Failure:
        """Make one micro batch."""
        slots = self.make_slots(len(picks))
        # In a worker the global generators are ours; in the caller's process they are not.
        with unchanged_randomness() if get_worker_info() is None else nullcontext():
            try:
                self._reader.prepare(sample for _, sample in picks)
                for slot, (epoch, sample) in enumerate(picks):
                    self._fill(slots, slot, epoch=epoch, sample=sample)
            except UserError as error:
                return Failure(message=str(error))
        return slots.finish()

    def _fill(self, slots: Slots, slot: int, *, epoch: int, sample: int) -> None:
        try:
            image = self.load(sample, epoch=epoch)
        except UnreadableSampleError as error:
            image = self._find_substitute(error, epoch=epoch, sample=sample)
            slots.bad.append(describe_bad(self._shards, error, epoch=epoch, sample=sample, substitute=image.key))
        slots.fill(slot, image)

    def _find_substitute(self, error: UnreadableSampleError, *, epoch: int, sample: int) -> Decoded:
        for substitute in list_substitutes(sample, seed=self._seed, epoch=epoch, num_samples=self._shards.num_samples):
            try:
                return self.load(substitute, epoch=epoch)
            except UnreadableSampleError:
                continue
        raise UserError(
            f"{self._shards.place}: neither sample {error.key} ({error.reason}) nor any of {MAX_SUBSTITUTES} "
            "substitutes can be used; check the shards' disk and copy the set again"
        )


class TrainBatches(SeededBatches):
    """Micro batches of images of one class each."""

    def __init__(self, shards: ShardSet, *, transform: TrainTransform, seed: int) -> None:
        super().__init__(shards, seed=seed)
        self.image_size = transform.config.image_size
        self._transform = transform

    def load(self, sample: int, *, epoch: int) -> Decoded:
        """See SeededBatches."""
        key = (self._seed, epoch, sample)
        image = load_image(self._reader, sample, partial(self._transform, key=key))
        return replace(image, box=self._transform.sample_box(key=key))


class EvaluationBatches(Batches):
    """Batches for evaluation; a bad sample leaves its slot empty and is reported."""

    def __init__(self, shards: ShardSet, *, transform: EvaluationTransform, corrupt: Corrupt | None = None) -> None:
        super().__init__(shards)
        self._transform = transform
        self._corrupt = corrupt

    def __getitems__(self, samples: Sequence[int]) -> Batch | Failure:
        """Make one batch; PADDING leaves its slot empty (is_real False)."""
        slots = SquareSlots(len(samples), image_size=self._transform.image_size)
        try:
            self._reader.prepare(sample for sample in samples if sample != PADDING)
            for slot, sample in enumerate(samples):
                if sample != PADDING:
                    self._fill(slots, slot, sample)
        except UserError as error:
            return Failure(message=str(error))
        return slots.finish()

    def _fill(self, slots: Slots, slot: int, sample: int) -> None:
        try:
            image = load_image(self._reader, sample, self._transform)
        except UnreadableSampleError as error:
            slots.bad.append(describe_bad(self._shards, error, epoch=0, sample=sample, substitute=""))
            return
        if self._corrupt is not None:
            image = replace(image, pixels=self._corrupt(image.pixels, key=image.key))
        slots.fill(slot, image)


def load_image(reader: ShardReader, sample: int, transform: Callable[[bytes], Pixels]) -> Decoded:
    """Read and transform one sample, twice if the first time fails; raises UnreadableSampleError."""
    return reader.try_twice(sample, lambda: _load_once(reader, sample, transform))


def _load_once(reader: ShardReader, sample: int, transform: Callable[[bytes], Pixels]) -> Decoded:
    raw = reader.read(sample)
    try:
        return Decoded(key=raw.key, label=raw.label, pixels=transform(raw.image))
    except UndecodableImageError as error:
        raise UnreadableSampleError(raw.key, str(error)) from error
    except Exception as error:
        if not _is_fault_of_image(transform):
            error.add_note(f"transforming sample {raw.key}; a plain image fails as well, so the transform is at fault")
            raise
        reason = " ".join(str(error).split())[:200]
        raise UnreadableSampleError(raw.key, f"cannot be transformed ({type(error).__name__}: {reason})") from error


def _is_fault_of_image(transform: Callable[[bytes], Pixels]) -> bool:
    """Whether a transform that has failed takes a plain image with the same draws: else it is at fault itself."""
    content = io.BytesIO()
    Image.new("RGB", (64, 64), (124, 116, 104)).save(content, "PNG")
    try:
        transform(content.getvalue())
    except Exception:
        return False
    return True


def describe_bad(
    shards: ShardSet, error: UnreadableSampleError, *, epoch: int, sample: int, substitute: str
) -> BadSample:
    """Make the report of a bad sample."""
    return BadSample(
        shard=shards.split.shards[shards.shard_of(sample)].rpartition("/")[2],
        offset=int(shards.records[sample]["offset"]),
        key=error.key,
        epoch=epoch,
        reason=error.reason,
        substitute=substitute,
    )

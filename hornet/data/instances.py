"""Streams of images with objects: the order, the workers and the resume of the others, over whole samples.

Images of a batch are of several sizes; they stand at the upper left of the batch's largest height and width.
Not here: what is done to the pixels (`augment/instances.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from hornet.batch import BadSample, Batch, Instances
from hornet.data.augment.instances import ImageWithObjects, InstanceEvaluationTransform, InstanceTransform
from hornet.data.division import check_division
from hornet.data.instances_config import InstanceEvaluationConfig, InstanceStreamConfig
from hornet.data.loader import EvaluationStream, TrainStream, make_order
from hornet.data.pairs import open_pairs, read_pair
from hornet.data.pipeline import PADDING, Batches, Decoded, Failure, SeededBatches, SquareSlots, allocate, describe_bad
from hornet.digest import hash_key
from hornet.errors import UserError
from hornet.shards.instances import BACKGROUND, INSTANCES_EXTENSION
from hornet.shards.reader import UnreadableSampleError
from hornet.shards.shard_set import ShardSet
from hornet.shards.whole_set import WholeSet
from hornet.world import World

BYTES_PER_PIXEL = 3 + 8
"""Three channels and the masks of as many objects as COCO's images have on average, for the room that is looked for in
shared memory."""


class PaddedSlots:
    """A batch of images with objects under construction; see Slots."""

    def __init__(self, count: int) -> None:
        self.bad: list[BadSample] = []
        self._images: dict[int, Decoded] = {}
        self._count = count

    def fill(self, slot: int, image: Decoded) -> None:
        """Put a sample into its place."""
        self._images[slot] = image

    def finish(self) -> Batch:
        """Return the batch, black to the right of and below images that are smaller than the largest."""
        images = [self._images[slot] for slot in range(self._count)]
        height, width = (max(image.pixels.shape[axis] for image in images) for axis in (0, 1))
        pixels = allocate(len(images), height, width, 3)
        for slot, image in enumerate(images):
            pixels.numpy()[slot, : image.pixels.shape[0], : image.pixels.shape[1]] = image.pixels
        return Batch(
            images_bchw=pixels.permute(0, 3, 1, 2),
            labels=torch.tensor([image.label for image in images]),
            erase_boxes=torch.zeros(len(images), 4, dtype=torch.int32),
            key_hashes=torch.tensor([hash_key(image.key) for image in images]),
            keys=tuple(image.key for image in images),
            is_real=torch.ones(len(images), dtype=torch.bool),
            bad_samples=tuple(self.bad),
            instances=tuple(_to_tensors(image.objects) for image in images if image.objects is not None),
        )


class InstanceBatches(SeededBatches):
    """Micro batches of images with objects."""

    def __init__(self, whole: WholeSet, *, transform: InstanceTransform, seed: int) -> None:
        super().__init__(whole.shards, seed=seed)
        self.image_size = transform.config.max_long_edge
        self._whole = whole
        self._transform = transform

    def make_slots(self, count: int) -> PaddedSlots:
        """See SeededBatches."""
        return PaddedSlots(count)

    def load(self, sample: int, *, epoch: int) -> Decoded:
        """See SeededBatches."""
        transform = partial(self._transform, key=(self._seed, epoch, sample))
        key, found = read_pair(
            self._reader, self._whole, sample, transform, extension=INSTANCES_EXTENSION, what="objects"
        )
        label = int(self._whole.shards.records[sample]["label"])
        return Decoded(key=key, label=label, pixels=found.pixels, objects=found)


class InstanceEvaluationBatches(Batches):
    """Single images with objects; a bad sample leaves its place empty and is reported."""

    def __init__(self, whole: WholeSet, *, transform: InstanceEvaluationTransform) -> None:
        super().__init__(whole.shards)
        self._whole = whole
        self._transform = transform

    def __getitems__(self, samples: Sequence[int]) -> Batch | Failure:
        """Make the batch of one image; PADDING gives an empty one (is_real False)."""
        (sample,) = samples
        if sample == PADDING:
            return make_empty_batch()
        try:
            self._reader.prepare([sample])
            key, found = read_pair(
                self._reader, self._whole, sample, self._transform, extension=INSTANCES_EXTENSION, what="objects"
            )
        except UnreadableSampleError as error:
            return make_empty_batch(describe_bad(self._shards, error, epoch=0, sample=sample, substitute=""))
        except UserError as error:
            return Failure(message=str(error))
        slots = PaddedSlots(1)
        label = int(self._whole.shards.records[sample]["label"])
        slots.fill(0, Decoded(key=key, label=label, pixels=found.pixels, objects=found))
        return slots.finish()


def make_empty_batch(*bad: BadSample) -> Batch:
    """Return the batch of no image, in the place of one that is padding or `bad`."""
    slots = SquareSlots(1, image_size=1)
    slots.bad += bad
    return replace(slots.finish(), instances=())


def open_instance_stream(
    config: InstanceStreamConfig, *, world: World, seed: int, global_batch_size: int, micro_batch_size: int
) -> TrainStream:
    """Open a split for training, as hornet.data.loader.open_train_stream; raises UserError."""
    check_division(global_batch_size, num_ranks=world.num_ranks, micro_batch_size=micro_batch_size)
    shards, whole = _open(config, key="data", world=world)
    transform = InstanceTransform(config.transform, num_classes=len(shards.label_space))
    return TrainStream(
        config,
        shards=shards,
        order=make_order(config, shards, seed=seed, global_batch_size=global_batch_size),
        world=world,
        micro_batch_size=micro_batch_size,
        dataset=InstanceBatches(whole, transform=transform, seed=seed),
        bytes_per_image=BYTES_PER_PIXEL * max(config.transform.short_edges) * config.transform.max_long_edge,
    )


def open_instance_evaluation(config: InstanceEvaluationConfig, *, world: World) -> EvaluationStream:
    """Open a split for evaluation, one image at a time; raises UserError."""
    shards, whole = _open(config, key="evaluation", world=world)
    transform = InstanceEvaluationTransform(
        short_edge=config.short_edge, max_long_edge=config.max_long_edge, num_classes=len(shards.label_space)
    )
    return EvaluationStream(
        config,
        shards=shards,
        world=world,
        batch_size=1,
        dataset=InstanceEvaluationBatches(whole, transform=transform),
        bytes_per_image=BYTES_PER_PIXEL * config.short_edge * config.max_long_edge,
    )


def _open(
    config: InstanceStreamConfig | InstanceEvaluationConfig, *, key: str, world: World
) -> tuple[ShardSet, WholeSet]:
    shards, whole = open_pairs(config, key=key, world=world, extension=INSTANCES_EXTENSION, what="objects")
    if shards.label_space.classes[0] != BACKGROUND:
        raise UserError(
            f"{key}.shards: {config.shards} is no set of images with objects, whose class 0 is {BACKGROUND!r} and not "
            f"{shards.label_space.classes[0]!r}; build one of COCO's annotations"
        )
    return shards, whole


def _to_tensors(found: ImageWithObjects) -> Instances:
    height, width = found.pixels.shape[:2]
    return Instances(
        size=(height, width),
        original_size=found.original_size,
        image_id=found.image_id,
        boxes=torch.from_numpy(found.boxes),
        labels=torch.from_numpy(found.labels),
        masks=torch.from_numpy(found.masks),
        iscrowd=torch.from_numpy(found.is_crowd),
        num_empty=found.num_empty,
        annotations=found.content,
    )

"""Streams of images with masks: the order, the workers and the resume of the others, over whole samples.

Not here: what is done to the pixels (`augment/segmentation.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from hornet.batch import BadSample, Batch
from hornet.data.augment.segmentation import SegmentationTransform, decode_pair
from hornet.data.division import check_division
from hornet.data.loader import EvaluationStream, TrainStream, make_order
from hornet.data.pairs import open_pairs, read_pair
from hornet.data.pipeline import PADDING, Batches, Decoded, Failure, SeededBatches, SquareSlots, describe_bad
from hornet.data.segmentation_config import SegmentationEvaluationConfig, SegmentationStreamConfig
from hornet.digest import hash_key
from hornet.errors import UserError
from hornet.shards.mask import IGNORED, MASK_EXTENSION
from hornet.shards.reader import UnreadableSampleError
from hornet.shards.whole_set import WholeSet
from hornet.world import World

CROP_BYTES_PER_PIXEL = 5
"""Three channels, and 16 bits of the mask."""
EVALUATED_PIXELS = 1 << 22
"""Of one image at its own size, for the room that is looked for in shared memory: a guess that few images exceed."""


class SegmentationBatches(SeededBatches):
    """Micro batches of images with masks."""

    has_masks = True

    def __init__(self, whole: WholeSet, *, transform: SegmentationTransform, seed: int) -> None:
        super().__init__(whole.shards, seed=seed)
        self.image_size = transform.config.crop_size
        self._whole = whole
        self._transform = transform

    def load(self, sample: int, *, epoch: int) -> Decoded:
        """See SeededBatches."""
        transform = partial(self._transform, key=(self._seed, epoch, sample))
        key, (pixels, classes) = read_pair(
            self._reader, self._whole, sample, transform, extension=MASK_EXTENSION, what="mask"
        )
        label = int(self._whole.shards.records[sample]["label"])
        return Decoded(key=key, label=label, pixels=pixels, classes=classes)


class SegmentationEvaluationBatches(Batches):
    """Single images at their own size, with masks; a bad sample leaves its place empty and is reported."""

    def __init__(self, whole: WholeSet, *, num_classes: int) -> None:
        super().__init__(whole.shards)
        self._whole = whole
        self._decode = partial(decode_pair, num_classes=num_classes)

    def __getitems__(self, samples: Sequence[int]) -> Batch | Failure:
        """Make the batch of one image; PADDING gives an empty one (is_real False)."""
        (sample,) = samples
        if sample == PADDING:
            return make_empty_batch()
        try:
            self._reader.prepare([sample])
            key, (pixels, classes) = read_pair(
                self._reader, self._whole, sample, self._decode, extension=MASK_EXTENSION, what="mask"
            )
        except UnreadableSampleError as error:
            return make_empty_batch(describe_bad(self._shards, error, epoch=0, sample=sample, substitute=""))
        except UserError as error:
            return Failure(message=str(error))
        return Batch(
            images_bchw=torch.from_numpy(pixels.copy())[None].permute(0, 3, 1, 2),
            labels=torch.tensor([int(self._whole.shards.records[sample]["label"])]),
            erase_boxes=torch.zeros(1, 4, dtype=torch.int32),
            key_hashes=torch.tensor([hash_key(key)]),
            keys=(key,),
            is_real=torch.ones(1, dtype=torch.bool),
            bad_samples=(),
            masks_bhw=torch.from_numpy(classes)[None],
        )


def make_empty_batch(*bad: BadSample) -> Batch:
    """Return the batch of no image, in the place of one that is padding or `bad`."""
    slots = SquareSlots(1, image_size=1)
    slots.bad += bad
    return replace(slots.finish(), masks_bhw=torch.full((1, 1, 1), IGNORED, dtype=torch.int16))


def open_segmentation_stream(
    config: SegmentationStreamConfig, *, world: World, seed: int, global_batch_size: int, micro_batch_size: int
) -> TrainStream:
    """Open a split for training, as hornet.data.loader.open_train_stream; raises UserError."""
    check_division(global_batch_size, num_ranks=world.num_ranks, micro_batch_size=micro_batch_size)
    shards, whole = open_pairs(config, key="data", world=world, extension=MASK_EXTENSION, what="masks")
    transform = SegmentationTransform(config.transform, num_classes=len(shards.label_space))
    return TrainStream(
        config,
        shards=shards,
        order=make_order(config, shards, seed=seed, global_batch_size=global_batch_size),
        world=world,
        micro_batch_size=micro_batch_size,
        dataset=SegmentationBatches(whole, transform=transform, seed=seed),
        bytes_per_image=CROP_BYTES_PER_PIXEL * config.transform.crop_size**2,
    )


def open_segmentation_evaluation(config: SegmentationEvaluationConfig, *, world: World) -> EvaluationStream:
    """Open a split for evaluation, one image at a time; raises UserError."""
    shards, whole = open_pairs(config, key="evaluation", world=world, extension=MASK_EXTENSION, what="masks")
    return EvaluationStream(
        config,
        shards=shards,
        world=world,
        batch_size=1,
        dataset=SegmentationEvaluationBatches(whole, num_classes=len(shards.label_space)),
        bytes_per_image=CROP_BYTES_PER_PIXEL * EVALUATED_PIXELS,
    )

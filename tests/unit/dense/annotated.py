"""Batches of annotated images, made by hand: bright and dark rectangles on grey."""

import torch

from hornet.batch import Batch, Instances


def make_instances(*boxes_and_labels, size=(64, 80), original_size=None, image_id=1):
    """What an image of `size` holds: (x1, y1, x2, y2), label from 1, each a rectangle filled to its edges."""
    boxes = torch.tensor([box for box, _ in boxes_and_labels], dtype=torch.float32).reshape(-1, 4)
    masks = torch.zeros(len(boxes), *size, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    return Instances(
        size=size,
        original_size=original_size or size,
        image_id=image_id,
        boxes=boxes,
        labels=torch.tensor([label for _, label in boxes_and_labels]).long(),
        masks=masks,
        iscrowd=torch.zeros(len(boxes), dtype=torch.bool),
        num_empty=0,
        annotations=b"",
    )


def make_batch(*images):
    """A batch of images, grey with what they hold: kind 1 bright, kind 2 dark; padding is bright, to be noticed."""
    height, width = (max(image.size[axis] for image in images) for axis in (0, 1))
    pixels = torch.full((len(images), 3, height, width), 255, dtype=torch.uint8)
    for canvas, image in zip(pixels, images, strict=True):
        canvas[:, : image.size[0], : image.size[1]] = 128
        for mask, label in zip(image.masks, image.labels.tolist(), strict=True):
            canvas[:, : image.size[0], : image.size[1]][:, mask.bool()] = 255 if label == 1 else 0
    count = len(images)
    return Batch(
        images_bchw=pixels,
        labels=torch.zeros(count, dtype=torch.int64),
        erase_boxes=torch.zeros(count, 4, dtype=torch.int32),
        key_hashes=torch.arange(count),
        keys=tuple(str(number) for number in range(count)),
        is_real=torch.ones(count, dtype=torch.bool),
        bad_samples=(),
        instances=images,
    )

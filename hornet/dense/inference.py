"""A segmenter on images of any size: at once or by windows, at several scales, mirrored; and measured on a set.

Source: the test pipeline and slide inference of the original's semantic_segmentation/configs (raoyongming/HorNet at
ac9e210), which are mmsegmentation's. Images are resized on the device, with a filter that spans all pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from hornet.batch import Batch
from hornet.data.augment.segmentation import fit_size
from hornet.data.segmentation_config import SegmentationEvaluationConfig
from hornet.model.sizes import MIN_IMAGE_SIZE
from hornet.training.confusion import ConfusionMatrix, SegmentationEvaluation

Segmenter = Callable[[Tensor], Tensor]
"""Normalised images (B, 3, H, W) -> logits (B, K, H, W): a UPerNet in evaluation mode."""


def predict(segmenter: Segmenter, image: Tensor, config: SegmentationEvaluationConfig) -> Tensor:
    """Return logits (1, K, H, W) of one normalised image (1, 3, H, W), at its size.

    Of several scales or with the mirrored image, the logarithms of the mean of their probabilities.
    """
    views = list(_list_views(image, config))
    if len(views) == 1:
        return _look(segmenter, *views[0], size=image.shape[2:], config=config)
    total: Tensor | None = None
    for view, is_flipped in views:
        found = _look(segmenter, view, is_flipped, size=image.shape[2:], config=config).softmax(dim=1)
        total = found if total is None else total.add_(found)
    assert total is not None
    return total.div_(len(views)).log_()


def _list_views(image: Tensor, config: SegmentationEvaluationConfig) -> Iterator[tuple[Tensor, bool]]:
    """Yield the image at each scale, and mirrored if asked, with whether it is."""
    height, width = image.shape[2:]
    for factor in config.factors:
        scale = config.scale or (max(height, width), min(height, width))
        wide, high = (max(MIN_IMAGE_SIZE, edge) for edge in fit_size(width, height, scale=scale, factor=factor))
        view = image
        if (high, wide) != (height, width):
            view = functional.interpolate(
                image, size=(high, wide), mode="bilinear", align_corners=False, antialias=True
            )
        yield view, False
        if config.flip:
            yield view.flip(3), True


def _look(
    segmenter: Segmenter, view: Tensor, is_flipped: bool, *, size: torch.Size, config: SegmentationEvaluationConfig
) -> Tensor:
    if config.mode == "whole":
        logits = segmenter(view).float()
    else:
        logits = slide(segmenter, view, crop_size=config.crop_size, stride=config.stride)
    if is_flipped:
        logits = logits.flip(3)
    if logits.shape[2:] == size:
        return logits
    return functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def slide(segmenter: Segmenter, image: Tensor, *, crop_size: int, stride: int) -> Tensor:
    """Return logits (1, K, H, W) of windows of `crop_size` at steps of `stride`, averaged where they overlap."""
    total: Tensor | None = None
    height, width = image.shape[2:]
    counts = image.new_zeros(1, 1, height, width, dtype=torch.float32)
    for top in list_starts(height, crop_size=crop_size, stride=stride):
        for left in list_starts(width, crop_size=crop_size, stride=stride):
            window = (..., slice(top, top + crop_size), slice(left, left + crop_size))
            logits = segmenter(image[window]).float()
            if total is None:
                total = logits.new_zeros(1, logits.shape[1], height, width)
            total[window] += logits
            counts[window] += 1
    assert total is not None
    return total.div_(counts)


def list_starts(length: int, *, crop_size: int, stride: int) -> list[int]:
    """Return where windows begin along an edge; the last one ends with the image."""
    num_windows = max(0, length - crop_size + stride - 1) // stride + 1
    return [max(0, min(number * stride, length - crop_size)) for number in range(num_windows)]


@torch.no_grad()
def measure(
    segmenter: Segmenter,
    batches: Iterable[Batch],
    *,
    config: SegmentationEvaluationConfig,
    num_classes: int,
    normalise: Callable[[Batch], Tensor],
    device: torch.device,
) -> SegmentationEvaluation:
    """Measure a segmenter over this rank's batches of one image each, and sum over ranks. Collective at its end."""
    matrix = ConfusionMatrix(num_classes)
    for batch in batches:
        matrix.add_bad(len(batch.bad_samples))
        if not batch.is_real.all():
            continue
        assert batch.masks_bhw is not None
        masks = batch.masks_bhw.to(device)
        logits = predict(segmenter, normalise(batch), config)
        loss = functional.cross_entropy(logits, masks.long(), ignore_index=-1, reduction="none").double().sum()
        matrix.add(logits.argmax(dim=1)[0], masks[0], loss=loss)
    return matrix.finish()

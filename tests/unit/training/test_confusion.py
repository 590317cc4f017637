"""mIoU against definitions written out pixel by pixel in numpy, and the same on any number of ranks."""

import numpy as np
import pytest
import torch

from hornet.training import confusion
from hornet.training.confusion import ConfusionMatrix
from hornet.training.evaluate import find_best, format_evaluation

NUM_CLASSES = 5


def make_images(count=7):
    """Images of different sizes; class 3 is in no mask and never predicted, class 4 is predicted only."""
    random = np.random.default_rng(0)
    images = []
    for number in range(count):
        shape = (8 + number, 11)
        mask = random.choice([-1, 0, 1, 2], shape, p=(0.1, 0.5, 0.3, 0.1))
        predicted = np.where(random.random(shape) < 0.6, np.maximum(mask, 0), random.choice([0, 1, 2, 4], shape))
        images.append((predicted, mask))
    return images


def count(images):
    matrix = ConfusionMatrix(NUM_CLASSES)
    for predicted, mask in images:
        matrix.add(torch.from_numpy(predicted), torch.from_numpy(mask), loss=torch.tensor(float(mask.size)))
    return matrix


def oracle(images):
    predicted, mask = (np.concatenate([pair[part].reshape(-1) for pair in images]) for part in (0, 1))
    predicted, mask = predicted[mask != -1], mask[mask != -1]
    iou, accuracy = [], []
    for label in range(NUM_CLASSES):
        both, either = ((predicted == label) & (mask == label)).sum(), ((predicted == label) | (mask == label)).sum()
        iou.append(100 * both / either if either else None)
        if (mask == label).any():
            accuracy.append(100 * (predicted[mask == label] == label).mean())
    return (
        iou,
        np.mean([share for share in iou if share is not None]),
        np.mean(accuracy),
        100 * (predicted == mask).mean(),
    )


def test_against_definitions_written_out(alone):
    images = make_images()
    found = count(images).finish()
    iou, miou, macc, aacc = oracle(images)
    assert found.class_iou[3] is iou[3] is None
    assert [share or 0 for share in found.class_iou] == pytest.approx([share or 0 for share in iou], rel=1e-12)
    assert found.class_iou[4] == 0
    assert (found.miou, found.macc, found.aacc) == pytest.approx((miou, macc, aacc), rel=1e-12)
    assert found.num_images == 7
    pixels = sum((mask != -1).sum() for _, mask in images)
    assert found.loss == pytest.approx(sum(mask.size for _, mask in images) / pixels)


def test_two_ranks_count_what_one_counts(alone, monkeypatch):
    """To the last digit: whole numbers are summed, and divided once."""
    images = make_images()
    whole = count(images).finish()
    parts = [count(images[0::2]), count(images[1::2])]
    parts[1].add_bad(0)
    other = {id(mine): theirs for mine, theirs in zip(vars(parts[0]).values(), vars(parts[1]).values(), strict=True)}
    monkeypatch.setattr(confusion, "sum_over_ranks", lambda values: values + other[id(values)])
    assert parts[0].finish() == whole


def test_nothing_counted_gives_zeros_and_bad_images_are_told(alone):
    matrix = ConfusionMatrix(2)
    matrix.add_bad(3)
    found = matrix.finish()
    assert (found.miou, found.num_images, found.num_bad_images) == (0, 0, 3)
    assert found.class_iou == (None, None)


def test_the_best_of_segmentations_has_the_highest_miou_and_reads_as_one():
    rows = [
        {"step": 1, "miou": 30.0, "macc": 50.0, "aacc": 70.0, "loss": 1.0, "num_images": 4, "num_bad_images": 0},
        {"step": 2, "miou": 40.0, "macc": 45.0, "aacc": 60.0, "loss": 2.0, "num_images": 4, "num_bad_images": 1},
        {"step": 3, "miou": 90.0, "macc": 90.0, "aacc": 90.0, "loss": None, "num_images": 4, "num_bad_images": 0},
    ]
    best = find_best(rows)
    assert best is rows[1]
    assert format_evaluation(best) == (
        "mIoU 40.00 %, mAcc 45.00 %, aAcc 60.00 %, loss 2.0000 on 4 images, 1 could not be read"
    )


def test_the_best_of_instances_has_the_highest_mask_ap_and_no_loss():
    counts = {"num_images": 4, "num_bad_images": 0}
    rows = [
        {"step": 1, "box_ap": 50.0, "box_ap50": 70.0, "mask_ap": 30.0, "mask_ap50": 60.0, **counts},
        {"step": 2, "box_ap": 40.0, "box_ap50": 75.0, "mask_ap": 35.5, "mask_ap50": 62.0, **counts},
    ]
    best = find_best(rows)
    assert best is rows[1]
    assert format_evaluation(best) == (
        "mask AP 35.50 %, box AP 40.00 %, mask AP50 62.00 %, box AP50 75.00 % on 4 images"
    )

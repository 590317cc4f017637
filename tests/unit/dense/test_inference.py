"""Windows, scales and mirrored images, on segmenters whose answer is known; the measure over a set."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from hornet.data.segmentation import make_empty_batch, open_segmentation_evaluation
from hornet.data.segmentation_config import SegmentationEvaluationConfig
from hornet.dense.inference import list_starts, measure, predict, slide
from hornet.world import ALONE
from tests.unit.data.masked_set import build_set, make_classes
from tests.unit.training.fakes import make_bad_sample

CONFIG = SegmentationEvaluationConfig(shards="unused", scale=None, crop_size=32, stride=20)


def starts_of_mmsegmentation(length, crop, stride):
    """The window arithmetic of mmsegmentation's slide_inference, written out."""
    starts = []
    for number in range(max(length - crop + stride - 1, 0) // stride + 1):
        stop = min(number * stride + crop, length)
        starts.append(max(stop - crop, 0))
    return starts


@pytest.mark.parametrize(
    ("length", "crop", "stride"), [(512, 512, 341), (683, 512, 341), (2048, 512, 341), (40, 64, 30)]
)
def test_windows_are_mmsegmentation_s_and_cover_the_edge(length, crop, stride):
    starts = list_starts(length, crop_size=crop, stride=stride)
    assert starts == starts_of_mmsegmentation(length, crop, stride)
    covered = np.zeros(length, bool)
    for start in starts:
        covered[start : start + crop] = True
    assert covered.all()


def test_windows_of_a_pixelwise_segmenter_give_what_the_whole_image_gives():
    torch.manual_seed(0)
    segmenter, image = nn.Conv2d(3, 4, 1), torch.randn(1, 3, 50, 71)
    with torch.no_grad():
        torch.testing.assert_close(slide(segmenter, image, crop_size=32, stride=20), segmenter(image))


def test_overlapping_windows_are_averaged():
    """A segmenter that answers with the number of its call: where two windows meet stands their mean."""
    calls = iter(range(10))
    found = slide(
        lambda window: torch.full((1, 2, *window.shape[2:]), float(next(calls))),
        torch.zeros(1, 3, 32, 48),
        crop_size=32,
        stride=16,
    )
    assert found[0, 0, 0].tolist() == [0.0] * 16 + [0.5] * 16 + [1.0] * 16


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_an_image_is_seen_at_its_scale_and_answered_at_its_size(mode):
    seen = []

    def segmenter(images):
        seen.append(tuple(images.shape[2:]))
        return images[:, :2]

    config = dataclasses.replace(CONFIG, mode=mode, scale=(120, 60), crop_size=64, stride=64)
    assert predict(segmenter, torch.rand(1, 3, 40, 50), config).shape == (1, 2, 40, 50)
    assert seen == ([(60, 75)] if mode == "whole" else [(60, 64), (60, 64)])


def test_views_are_the_mean_of_their_probabilities():
    """The mirrored view is mirrored back; of three views each has a third."""
    torch.manual_seed(0)
    image = torch.rand(1, 3, 32, 48)
    segmenter = nn.Conv2d(3, 3, 1).requires_grad_(False)
    config = dataclasses.replace(CONFIG, mode="whole", flip=True)
    one = predict(segmenter, image, dataclasses.replace(config, flip=False)).softmax(dim=1)
    torch.testing.assert_close(predict(segmenter, image, config).exp(), one)
    views = []

    def remembering(images):
        logits = segmenter(images)
        views.append(logits)
        return logits

    found = predict(remembering, image, dataclasses.replace(config, factors=(1.0, 1.5))).exp()
    assert [tuple(view.shape[2:]) for view in views] == [(32, 48), (32, 48), (48, 72), (48, 72)]
    resized = [nn.functional.interpolate(view, size=(32, 48), mode="bilinear") for view in views]
    resized[1], resized[3] = resized[1].flip(3), resized[3].flip(3)
    torch.testing.assert_close(found, torch.stack([view.softmax(dim=1) for view in resized]).mean(dim=0))


def test_a_thin_image_gets_the_pixels_that_the_network_needs():
    seen = []
    config = dataclasses.replace(CONFIG, mode="whole", scale=(64, 64))
    predict(lambda images: seen.append(images.shape[2:]) or images, torch.rand(1, 3, 4, 200), config)
    assert [tuple(size) for size in seen] == [(32, 64)]


def test_the_measure_counts_each_image_once_on_any_number_of_ranks(alone, tmp_path):
    """A segmenter that knows red from green and takes blue for red: its IoU follows from the masks alone."""
    folder = build_set(tmp_path, num_images=5)

    def segmenter(images):
        return torch.stack([images[:, 0] + images[:, 2], images[:, 1], torch.zeros_like(images[:, 0])], dim=1)

    def run(rank, num_ranks):
        config = dataclasses.replace(CONFIG, shards=folder, index=tmp_path / "index", mode="whole")
        stream = open_segmentation_evaluation(config, world=dataclasses.replace(ALONE, rank=rank, num_ranks=num_ranks))
        batches = [*stream.iterate(), make_empty_batch(make_bad_sample())]
        return measure(
            segmenter,
            batches,
            config=config,
            num_classes=3,
            normalise=lambda batch: batch.images_bchw.float() / 255,
            device=torch.device("cpu"),
        )

    masks = np.concatenate([make_classes(number, height=60 + 3 * number)[1:].reshape(-1) for number in range(5)])
    red, green, blue = (int((masks == label).sum()) for label in range(3))
    found = run(0, 1)
    assert found.class_iou == pytest.approx((100 * red / (red + blue), 100.0, 0.0))
    assert found.aacc == pytest.approx(100 * (red + green) / len(masks))
    assert (found.num_images, found.num_bad_images) == (5, 1)
    assert sum(run(rank, 2).num_images for rank in (0, 1)) == 5

"""Masks of polygons and runs against pycocotools, pixel for pixel."""

import json
import tracemalloc

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from hornet.shards.instance_masks import encode_runs, make_mask, read_segmentation
from hornet.shards.instances import MalformedInstancesError, parse_instances


def rasterise(segmentation, *, height, width):
    return make_mask(read_segmentation(segmentation, height=height, width=width), height=height, width=width)


def make_polygon(random, *, height, width, number):
    corners = random.uniform(-0.3, 1.3, (random.integers(3, 12), 2)) * [width, height]
    corners = np.clip(corners, -max(height, width), 2 * max(height, width))
    if number % 3 == 0:
        corners = np.round(corners)
    if number % 3 == 1:
        corners = np.clip(np.round(corners, 2), 0, [width, height])
    return corners.reshape(-1).tolist()


def test_polygons_cover_the_pixels_that_cocos_own_code_gives_them():
    random = np.random.default_rng(0)
    for number in range(300):
        height, width = random.integers(1, 60, 2).tolist()
        polygons = [make_polygon(random, height=height, width=width, number=number) for _ in range(1 + number % 2)]
        wanted = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))
        assert (rasterise(polygons, height=height, width=width) == wanted).all(), polygons


def test_runs_as_lists_and_packed_come_back():
    random = np.random.default_rng(1)
    for _ in range(200):
        height, width = random.integers(1, 40, 2).tolist()
        mask = (random.random((height, width)) < random.random()).astype(np.uint8)
        packed = coco_mask.encode(np.asfortranarray(mask))
        for runs in (encode_runs(mask), {"size": [height, width], "counts": packed["counts"].decode()}):
            assert (rasterise(json.loads(json.dumps(runs)), height=height, width=width) == mask).all()
        assert (coco_mask.decode(coco_mask.frPyObjects(encode_runs(mask), height, width)) == mask).all()


def test_an_outline_of_fewer_than_three_corners_has_no_inside():
    assert rasterise([[1, 1, 5, 5]], height=9, width=9).sum() == 0
    assert rasterise([[1, 1, 5, 5], [0, 0, 4, 0, 4, 4, 0, 4]], height=9, width=9).sum() == 16


HOSTILE = [
    {"size": [10**9, 10**9], "counts": [10**18]},
    {"size": [8, 8], "counts": [10**18, 1]},
    {"size": [8, 8], "counts": [64] * 10_000},
    {"size": [8, 8], "counts": "o" * 100_000},
    {"size": [8, 8], "counts": "f" * 100_000},
    {"size": [8, 8], "counts": [-1, 65]},
    {"size": [8, 8], "counts": [True, 63]},
    {"size": [8, 8]},
    [[0.0, 0.0, 1e9, 1e9, 0.0, 1e9]],
    [[float("inf")] * 6],
    [[-8, 0, 16, 0, -8, 1] * 20_000],
    [[]],
    "abc",
]


@pytest.mark.parametrize("segmentation", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_segmentations_are_refused_before_they_take_memory(segmentation):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"^(is|has) "):
            read_segmentation(segmentation, height=8, width=8)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def describe(**changes):
    value = {"image_id": 1, "height": 8, "width": 8, "annotations": []} | changes
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{", "are no JSON"),
        (b"[" * 100_000, r"are no JSON \(RecursionError\)"),
        (b"[]", "are no JSON object with image_id"),
        (describe(height=10**9, width=10**9), "are of 1000000000 x 1000000000 pixels; 89478485 are the limit"),
        (describe(height=True), "the image: height must be a whole number from 1, not 'True'"),
        (describe(image_id=-1), "the image: image_id must be a whole number from 0"),
        (describe(annotations=5), "hold no list `annotations`"),
        (describe(annotations=[5]), "hold an annotation that is no JSON object"),
        (
            describe(annotations=[{"id": 3, "category": 0}]),
            "annotation 3: category must be|annotation 3: category is 0",
        ),
        (
            describe(annotations=[{"id": 3, "category": 4}]),
            "annotation 3: category is 4; the set's 3 classes of objects",
        ),
    ],
)
def test_members_that_are_not_of_the_format_are_told(content, sentence):
    with pytest.raises(MalformedInstancesError, match=sentence):
        parse_instances(content, num_classes=4)

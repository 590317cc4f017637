"""Images with objects: transforms that keep them together, streams that do not depend on ranks, workers or restarts."""

import dataclasses
import json
import random
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as vision

from hornet.config import ConfigError, build_config
from hornet.data.augment.instances import InstanceEvaluationTransform, InstanceTransform, draw_view, fit_short_edge
from hornet.data.instances import make_empty_batch, open_instance_evaluation, open_instance_stream
from hornet.data.instances_config import (
    InstanceCropConfig,
    InstanceEvaluationConfig,
    InstanceStreamConfig,
    InstanceTransformConfig,
)
from hornet.data.pipeline import PADDING
from hornet.errors import UserError
from hornet.seeding import derive_seed
from hornet.shards.decode import UndecodableImageError
from hornet.world import ALONE
from tests.unit.data.masked_set import build_set as build_masked_set
from tests.unit.shards.coco_set import annotate, build_set, make_disc, outline
from tests.unit.shards.making import encode

PLAIN = InstanceTransformConfig(short_edges=(32, 48, 64), max_long_edge=80)
CROP = InstanceCropConfig(short_edges=(40, 56), min_edge=24, max_edge=48)
CROPPED = dataclasses.replace(PLAIN, crop=CROP)
RECIPE = InstanceTransformConfig(crop=InstanceCropConfig())
"""The original's numbers."""
HEIGHT, WIDTH = 40, 60


def describe(listed, *, height=HEIGHT, width=WIDTH):
    for one in listed:
        one["category"] = one.pop("category_id")
    return json.dumps({"image_id": 7, "height": height, "width": width, "annotations": listed}).encode()


def make_pair():
    """A white disc and a red rectangle on black, and their annotations; a crowd over all."""
    disc = make_disc(HEIGHT, WIDTH, x=40, y=20, radius=12)
    pixels = np.repeat(255 * disc[..., None], 3, axis=2)
    pixels[5:15, 4:24] = (255, 0, 0)
    everything = np.ones((HEIGHT, WIDTH), np.uint8)
    listed = [
        annotate(disc, number=1, image_id=7, category_id=2, kind="packed"),
        annotate(everything, number=2, image_id=7, category_id=1, kind="crowd"),
        outline((4, 5, 20, 10), number=3, image_id=7, category_id=3),
    ]
    return encode(Image.fromarray(pixels)), describe(listed)


def transform(pair, *, key=(0, 0, 0), **changes):
    return InstanceTransform(dataclasses.replace(PLAIN, **changes), num_classes=4)(*pair, key=key)


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    return build_set(tmp_path_factory.mktemp("squares"))


def open_stream(folder, tmp_path, *, rank=0, num_ranks=1, micro_batch_size=2, **changes):
    config = InstanceStreamConfig(shards=folder, index=tmp_path / "index", transform=CROPPED, **changes)
    world = dataclasses.replace(ALONE, rank=rank, num_ranks=num_ranks)
    return open_instance_stream(config, world=world, seed=5, global_batch_size=4, micro_batch_size=micro_batch_size)


def open_evaluation(folder, tmp_path, **changes):
    world = dataclasses.replace(ALONE, **changes)
    config = InstanceEvaluationConfig(shards=folder, index=tmp_path / "index", short_edge=64, max_long_edge=80)
    return open_instance_evaluation(config, world=world)


def collect(stream, first_step=0, num_steps=3):
    """Of each step and sample: its pixels without the padding, and its objects."""
    found = {}
    per_step = stream.num_micro_steps
    for number, batch in enumerate(stream.iterate(first_step, num_steps)):
        for name, image, objects in zip(batch.keys, batch.images_bchw, batch.instances, strict=True):
            height, width = objects.size
            found[name, first_step + number // per_step] = (image[:, :height, :width].clone(), objects)
    stream.close()
    return found


def require_equal(first, second):
    assert torch.equal(first[0], second[0])
    for field in dataclasses.fields(first[1]):
        one, other = (getattr(objects, field.name) for objects in (first[1], second[1]))
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, field.name


@pytest.mark.parametrize("seed", range(8))
def test_image_boxes_and_masks_stay_together_and_the_crowd_is_left_out(seed):
    found = transform(make_pair(), key=(1, 2, seed))
    height, width = found.pixels.shape[:2]
    assert found.masks.shape == (2, height, width)
    assert found.labels.tolist() == [2, 3]
    assert (found.image_id, found.original_size, found.num_empty, found.content) == (7, (HEIGHT, WIDTH), 0, b"")
    for mask, colour in zip(found.masks, ((255, 255, 255), (255, 0, 0)), strict=True):
        is_of_it = np.abs(found.pixels.astype(int) - colour).max(axis=2) < 100
        assert (is_of_it != mask).mean() < 0.03, "but for pixels of the border"
    for mask, box in zip(found.masks, found.boxes, strict=True):
        rows, columns = np.nonzero(mask)
        tight = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert box == pytest.approx(tight, abs=1.5)
    assert found.boxes.dtype == np.float32


def test_boxes_follow_the_scale_exactly():
    found = transform(make_pair(), short_edges=(80,), max_long_edge=120, flip_probability=0.0)
    assert found.pixels.shape == (80, 120, 3)
    assert found.boxes[1].tolist() == [8, 10, 48, 30]
    assert found.masks[1].sum() == 4 * 200
    assert (found.masks[1][10:30, 8:48] == 1).all()


def test_the_flip_mirrors_image_boxes_and_masks():
    never, always = (transform(make_pair(), flip_probability=probability) for probability in (0.0, 1.0))
    width = never.pixels.shape[1]
    assert (always.pixels == never.pixels[:, ::-1]).all()
    assert torch.equal(torch.tensor(always.masks.copy()), vision.horizontal_flip(torch.tensor(never.masks.copy())))
    left, top, right, bottom = never.boxes.T
    assert pytest.approx(np.stack([width - right, top, width - left, bottom]), abs=1e-4) == always.boxes.T


def test_the_shorter_edge_is_drawn_and_the_longer_is_held():
    assert fit_short_edge(640, 480, short=800, long=1333) == (1067, 800)
    assert fit_short_edge(640, 360, short=800, long=1333) == (1333, 750)
    assert fit_short_edge(360, 640, short=800, long=1333) == (750, 1333)
    assert fit_short_edge(1, 900, short=800, long=1333)[0] == 1
    drawn = [min(transform(make_pair(), key=(0, 0, number)).pixels.shape[:2]) for number in range(60)]
    assert set(drawn) == {32, 48, 53}, "64 would make the longer edge 96"


def test_draws_follow_from_the_key_alone():
    first = transform(make_pair(), key=(1, 0, 7))
    transform(make_pair(), key=(1, 0, 8))
    again = transform(make_pair(), key=(1, 0, 7))
    assert (first.pixels == again.pixels).all()
    assert (first.masks == again.masks).all()
    others = [transform(make_pair(), key=(1, epoch, 7)) for epoch in range(1, 6)]
    assert any(first.pixels.shape != other.pixels.shape for other in others)


def test_boxes_outside_of_the_image_are_empty_left_out_and_counted():
    image, _ = make_pair()
    listed = [outline((left, 5, 9, 9), number=left, image_id=7, category_id=1) for left in (10, 60, 90)]
    listed.append(outline((55, 5, 9, 9), number=1, image_id=7, category_id=1))
    found = transform((image, describe(listed)), short_edges=(40,), flip_probability=0.0)
    assert found.boxes.tolist() == [[10, 5, 19, 14], [55, 5, 60, 14]]
    assert found.num_empty == 2
    assert len(found.masks) == len(found.labels) == 2


def test_an_image_without_objects_has_none():
    found = transform((make_pair()[0], describe([])))
    assert (found.boxes.shape, found.masks.shape[0], found.labels.shape) == ((0, 4), 0, (0,))


def draw(config, number, *, width=WIDTH, height=HEIGHT):
    return draw_view(width, height, config, random.Random(derive_seed("instances", 0, 0, number)))


def test_half_of_the_images_are_cropped_and_nothing_else_is_drawn_otherwise():
    """640 x 480 pixels, by the original's numbers: its two policies, each as likely."""
    pairs = [
        (draw(RECIPE, number, width=640, height=480), draw(InstanceTransformConfig(), number, width=640, height=480))
        for number in range(1000)
    ]
    cropped = [(view, plain) for view, plain in pairs if view.is_cropped]
    assert 440 < len(cropped) < 560, "three standard deviations of 16 and more"
    assert all(view == plain for view, plain in pairs if not view.is_cropped)
    assert all(view.is_mirrored == plain.is_mirrored for view, plain in cropped)
    assert {view.scaled for view, _ in cropped} == {(533, 400), (667, 500), (800, 600)}
    for view, plain in cropped:
        left, top, width, height = view.window
        assert 0 <= left <= view.scaled[0] - width
        assert 0 <= top <= view.scaled[1] - height
        assert 384 <= width <= min(600, view.scaled[0])
        assert 384 <= height <= min(600, view.scaled[1])
        assert view.size == fit_short_edge(width, height, short=min(plain.size), long=1333)
    lengths = [view.window[2:] for view, _ in cropped if view.scaled == (800, 600)]
    for side in zip(*lengths, strict=True):
        assert min(side) < 400 < 584 < max(side), "the bounds are reached"
        assert 470 < sum(side) / len(side) < 514, "492 is the middle"
    places = [view.window[0] / max(1, view.scaled[0] - view.window[2]) for view, _ in cropped]
    assert min(places) < 0.02 < 0.98 < max(places)


def test_an_image_with_less_than_the_least_is_kept_whole_on_that_side():
    config = dataclasses.replace(RECIPE, crop=InstanceCropConfig(probability=1.0))
    for number in range(20):
        view = draw(config, number, width=2000, height=200)  # 1333 x 133 at most
        assert view.scaled == (1333, 133)
        assert view.window[1::2] == (0, 133)
        assert 384 <= view.window[2] <= 600


@pytest.mark.parametrize("number", range(12))
def test_a_crop_against_torchvision(number):
    """Its resizing, cropping, resizing and mirroring of image, boxes and masks, one after the other."""
    config = dataclasses.replace(CROPPED, crop=dataclasses.replace(CROP, probability=1.0))
    whole = transform(make_pair(), short_edges=(HEIGHT,), flip_probability=0.0)
    view = draw(config, number)
    found = InstanceTransform(config, num_classes=4)(*make_pair(), key=(0, 0, number))
    left, top, width, height = view.window
    parts = [
        tv_tensors.Image(torch.tensor(whole.pixels).permute(2, 0, 1)),
        tv_tensors.Mask(torch.tensor(whole.masks)),
        tv_tensors.BoundingBoxes(torch.tensor(whole.boxes), format="XYXY", canvas_size=(HEIGHT, WIDTH)),
    ]
    for position, part in enumerate(parts):
        is_mask = isinstance(part, tv_tensors.Mask)
        how = InterpolationMode.NEAREST_EXACT if is_mask else InterpolationMode.BILINEAR
        part = vision.resize(part, view.scaled[::-1], interpolation=how, antialias=True)
        part = vision.crop(part, top, left, height, width)
        part = vision.resize(part, view.size[::-1], interpolation=how, antialias=True)
        parts[position] = vision.horizontal_flip(part) if view.is_mirrored else part
    image, masks, boxes = parts
    is_there = (masks > 0).flatten(1).any(dim=1) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    assert found.pixels.shape[:2] == view.size[::-1]
    assert np.abs(found.pixels.astype(int) - image.permute(1, 2, 0).numpy()).max() <= 2
    assert found.labels.tolist() == whole.labels[is_there.numpy()].tolist()
    assert found.num_empty == 2 - len(found.labels)
    assert found.boxes == pytest.approx(boxes[is_there].numpy(), abs=1e-3)
    for mask, theirs in zip(found.masks, masks[is_there].numpy(), strict=True):
        assert (mask != theirs).mean() < 0.05, "they take the nearest pixel twice, ours once"


def test_boxes_and_masks_of_a_crop_agree_exactly_where_pixels_are_doubled():
    crop = InstanceCropConfig(probability=1.0, short_edges=(HEIGHT,), min_edge=20, max_edge=20)
    config = dataclasses.replace(PLAIN, short_edges=(40,), crop=crop)
    pair = make_pair()
    numbers_of_objects = []
    for number in range(40):
        view = draw(config, number)
        assert (view.scaled, view.size) == ((WIDTH, HEIGHT), (40, 40))
        found = InstanceTransform(config, num_classes=4)(*pair, key=(0, 0, number))
        numbers_of_objects.append(len(found.labels))
        assert found.num_empty == 2 - len(found.labels)
        assert found.masks.any(axis=(1, 2)).all()
        left, top, _, _ = view.window
        seen = [2 * max(4 - left, 0), 2 * max(5 - top, 0), 2 * min(24 - left, 20), 2 * min(15 - top, 20)]
        if view.is_mirrored:
            seen[::2] = 40 - seen[2], 40 - seen[0]
        is_seen = seen[2] > seen[0] and seen[3] > seen[1]
        assert found.boxes[found.labels == 3].tolist() == ([seen] if is_seen else [])
        for mask in found.masks[found.labels == 3]:
            rows, columns = np.nonzero(mask)
            assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == seen
            assert mask.sum() == (seen[2] - seen[0]) * (seen[3] - seen[1])
    assert set(numbers_of_objects) == {0, 1, 2}, "crops without objects are kept: they show what is none"


def test_a_box_that_is_seen_without_a_pixel_of_its_object_is_left_out():
    """A triangle, of whose box the lower right half holds nothing."""
    one = outline((0, 0, 40, 40), number=1, image_id=7, category_id=1)
    one["segmentation"] = [[0, 0, 40, 0, 0, 40]]
    pair = make_pair()[0], describe([one])
    crop = InstanceCropConfig(probability=1.0, short_edges=(HEIGHT,), min_edge=8, max_edge=8)
    config = dataclasses.replace(PLAIN, short_edges=(32,), crop=crop)
    counts = {"seen": 0, "box alone": 0, "nothing": 0}
    for number in range(80):
        left, top, _, _ = draw(config, number).window
        found = InstanceTransform(config, num_classes=4)(*pair, key=(0, 0, number))
        kind = "nothing" if left >= 40 else "seen" if left + top < 39 else "box alone" if left + top > 40 else None
        if kind is not None:
            counts[kind] += 1
            assert (len(found.labels), found.num_empty) == ((1, 0) if kind == "seen" else (0, 1))
    assert min(counts.values()) > 5


def test_objects_that_do_not_fit_cannot_be_used():
    image, objects = make_pair()
    with pytest.raises(UndecodableImageError, match="its objects are for 61 x 40 pixels, the image has 60 x 40"):
        transform((image, describe([], width=61)))
    with pytest.raises(UndecodableImageError, match="its objects cannot be used: are no JSON"):
        transform((image, objects[:-1]))


def test_evaluation_keeps_the_crowd_and_what_was_read():
    image, objects = make_pair()
    evaluated = InstanceEvaluationTransform(short_edge=80, max_long_edge=200, num_classes=4)(image, objects)
    assert evaluated.pixels.shape == (80, 120, 3)
    assert evaluated.is_crowd.tolist() == [False, True, False]
    assert evaluated.masks[1].all()
    assert evaluated.content == objects


def test_ranks_workers_and_restarts_change_nothing(squares, tmp_path):
    alone = collect(open_stream(squares, tmp_path, micro_batch_size=4))
    assert len(alone) == 12
    ranks = {}
    for rank in (0, 1):
        ranks |= collect(open_stream(squares, tmp_path, rank=rank, num_ranks=2, num_workers=rank))
    later = collect(open_stream(squares, tmp_path, micro_batch_size=4), first_step=2, num_steps=1)
    assert ranks.keys() == alone.keys()
    for key in alone:
        require_equal(alone[key], ranks[key])
    assert later.keys() == {key for key in alone if key[1] == 2}
    for key in later:
        require_equal(alone[key], later[key])


def test_a_batch_is_as_large_as_its_largest_image_and_black_beyond_each(squares, tmp_path):
    stream = open_stream(squares, tmp_path, micro_batch_size=4)
    for batch in stream.iterate(0, 3):
        heights, widths = zip(*(objects.size for objects in batch.instances), strict=True)
        assert batch.images_bchw.shape == (4, 3, max(heights), max(widths))
        assert batch.images_bchw.dtype == torch.uint8
        assert batch.images_bchw.is_contiguous(memory_format=torch.channels_last)
        for image, objects in zip(batch.images_bchw, batch.instances, strict=True):
            height, width = objects.size
            assert image[:, :height, :width].any()
            assert not image[:, height:].any()
            assert not image[:, :, width:].any()
            assert objects.labels.dtype == torch.int64
            assert not objects.iscrowd.any()
    stream.close()


def test_evaluation_gives_each_image_once_with_its_crowd(squares, tmp_path):
    seen = []
    for rank in (0, 1):
        stream = open_evaluation(squares, tmp_path, rank=rank, num_ranks=2)
        batches = list(stream.iterate())
        assert len(batches) == 5
        seen += [batch.instances[0] for batch in batches if batch.is_real.all()]
    assert sorted(objects.image_id for objects in seen) == [7 + 10 * number for number in range(9)]
    for objects in seen:
        position = (objects.image_id - 7) // 10
        assert objects.original_size == (40 + 3 * position, 60)
        assert bool(objects.iscrowd.any()) == (position % 3 == 0 and position % 4 != 3)
        assert len(objects.labels) == len(json.loads(objects.annotations)["annotations"])
    assert make_empty_batch().instances == ()
    assert not stream.read([PADDING]).is_real.any()
    assert stream.label_space.classes == ("background", "red", "green", "blue")


def spoil(folder, tmp_path, *, split, content):
    """A copy of a set in which the first objects of the second shard are others, as long as they were."""
    copied = tmp_path / "copied"
    copied.mkdir()
    for path in folder.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    tar = copied / f"squares-{split}-000001.tar"
    with tarfile.open(tar) as opened:
        member = next(member for member in opened if member.name.endswith(".instances.json"))
    bytes_of = bytearray(tar.read_bytes())
    bytes_of[member.offset_data : member.offset_data + member.size] = content.ljust(member.size)
    tar.write_bytes(bytes_of)
    return copied, member.name.removesuffix(".instances.json")


def test_damaged_objects_are_replaced_in_training_and_reported(squares, tmp_path):
    copied, name = spoil(squares, tmp_path, split="train", content=b"{}")
    stream = open_stream(copied, tmp_path, micro_batch_size=4)
    bad = [bad for batch in stream.iterate(0, 2) for bad in batch.bad_samples]
    stream.close()
    assert [sample.key for sample in bad] == [f"squares-train-000001/{name}"]
    assert "its objects cannot be used: the image: height must be a whole number from 1" in bad[0].reason
    assert bad[0].substitute


def test_damaged_objects_are_left_out_of_evaluation_and_reported(squares, tmp_path):
    hostile = b'{"image_id": 1, "height": 1000000000, "width": 1000000000, "annotations": []}'
    copied, name = spoil(squares, tmp_path, split="validation", content=hostile)
    batches = list(open_evaluation(copied, tmp_path).iterate())
    bad = [sample for batch in batches for sample in batch.bad_samples]
    assert [sample.key for sample in bad] == [f"squares-validation-000001/{name}"]
    assert "are of 1000000000 x 1000000000 pixels" in bad[0].reason
    assert sum(bool(batch.is_real) for batch in batches) == 8


def test_sets_without_objects_are_refused(tmp_path):
    masked = build_masked_set(tmp_path)
    with pytest.raises(
        UserError, match=r"data.shards: .* holds no objects \(.instances.json\) beside its images, only "
    ):
        open_stream(masked, tmp_path)
    with pytest.raises(UserError, match="names tars, but objects need the names of their classes"):
        open_stream(tmp_path / "set/*.tar", tmp_path)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"short_edges": []}, "short_edges: must name lengths of at least 32 pixels"),
        ({"short_edges": [16, 800]}, "short_edges: must name lengths of at least 32 pixels"),
        ({"max_long_edge": 700}, r"max_long_edge: must be at least the longest of short_edges \(800\), not 700"),
        ({"flip_probability": 2}, "flip_probability: must be a probability from 0 to 1, not 2"),
        (
            {"crop": {"probability": 0}},
            r"crop\.probability: must be over 0 and at most 1, not 0.*; for no crops leave crop",
        ),
        ({"crop": {"short_edges": []}}, r"crop\.short_edges: must name lengths of at least 1 pixel, not \[\]"),
        (
            {"crop": {"min_edge": 700}},
            r"crop\.min_edge: must be at least 1 pixel and at most max_edge \(600\), not 700",
        ),
        ({"crop": {"edges": 2}}, r"crop\.edges: unknown key"),
    ],
)
def test_settings_of_training_that_make_no_sense_are_refused(values, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build_config(InstanceTransformConfig, values, source="test")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"short_edge": 8}, "short_edge: must be at least 32 pixels"),
        ({"max_long_edge": 700}, r"max_long_edge: must be at least short_edge \(800\), not 700"),
    ],
)
def test_settings_of_evaluation_that_make_no_sense_are_refused(values, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build_config(InstanceEvaluationConfig, {"shards": "x", **values}, source="test")

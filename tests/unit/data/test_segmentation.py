"""Images with masks: transforms that keep both together, streams that do not depend on ranks, workers or restarts."""

import dataclasses
import random
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from hornet.config import ConfigError, build_config
from hornet.data.augment.segmentation import SegmentationTransform, distort, fit_size
from hornet.data.pipeline import PADDING
from hornet.data.segmentation import make_empty_batch, open_segmentation_evaluation, open_segmentation_stream
from hornet.data.segmentation_config import (
    SegmentationEvaluationConfig,
    SegmentationStreamConfig,
    SegmentationTransformConfig,
)
from hornet.errors import UserError
from hornet.shards.decode import UndecodableImageError
from hornet.shards.mask import IGNORED, encode_mask
from hornet.world import ALONE
from tests.unit.data.masked_set import COLOURS, build_set, make_classes
from tests.unit.shards.making import encode, index, write_shards

PLAIN = SegmentationTransformConfig(scale=(96, 48), crop_size=32, photometric_distortion=False)


def encode_pair(classes):
    return encode(Image.fromarray(COLOURS[np.maximum(classes, 0)])), encode_mask(
        classes.astype(np.int16), num_classes=3
    )


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    return build_set(tmp_path_factory.mktemp("masked"))


def open_stream(folder, tmp_path, *, rank=0, num_ranks=1, micro_batch_size=2, **changes):
    config = SegmentationStreamConfig(shards=folder, index=tmp_path / "index", transform=PLAIN, **changes)
    world = dataclasses.replace(ALONE, rank=rank, num_ranks=num_ranks)
    return open_segmentation_stream(config, world=world, seed=5, global_batch_size=4, micro_batch_size=micro_batch_size)


def collect(stream, first_step=0, num_steps=3):
    batches = list(stream.iterate(first_step, num_steps))
    stream.close()
    return {
        (name, step): (pixels, mask)
        for step, batch in enumerate(batches)
        for name, pixels, mask in zip(batch.keys, batch.images_bchw.clone(), batch.masks_bhw.clone(), strict=True)
    }


@pytest.mark.parametrize("seed", range(8))
def test_image_and_mask_stay_aligned(seed):
    """A pixel of a pure colour has that colour's class, whatever was scaled, cropped and mirrored."""
    classes = make_classes(seed).astype(np.int16)
    classes[:, 0] = IGNORED
    pixels, mask = SegmentationTransform(PLAIN, num_classes=3)(*encode_pair(classes), key=(1, 2, seed))
    assert pixels.shape == (32, 32, 3)
    assert mask.shape == (32, 32)
    for label, colour in enumerate(COLOURS):
        is_pure = (np.abs(pixels.astype(int) - colour).max(axis=2) < 3) & (mask != IGNORED)
        assert (mask[is_pure] == label).all()
    assert (np.abs(pixels.astype(int)[..., None, :] - COLOURS).max(axis=-1).min(axis=-1) < 3).mean() > 0.5


def test_the_flip_mirrors_both():
    classes = make_classes(3).astype(np.int16)
    never, always = (
        SegmentationTransform(dataclasses.replace(PLAIN, flip_probability=probability), num_classes=3)
        for probability in (0.0, 1.0)
    )
    pair = encode_pair(classes)
    for key in ((0, 0, 1), (0, 0, 2)):
        (pixels, mask), (mirrored, mask_mirrored) = never(*pair, key=key), always(*pair, key=key)
        assert (mirrored == pixels[:, ::-1]).all()
        assert (mask_mirrored == mask[:, ::-1]).all()


def test_the_scale_is_drawn_between_its_factors_and_fits_as_mmsegmentation_s():
    assert fit_size(683, 512, scale=(2048, 512), factor=1.0) == (683, 512)
    assert fit_size(2000, 500, scale=(2048, 512), factor=1.0) == (2048, 512)
    assert fit_size(4000, 500, scale=(2048, 512), factor=1.0) == (2048, 256)
    assert fit_size(300, 400, scale=(2048, 512), factor=0.5) == (256, 341)
    assert fit_size(1, 900, scale=(2048, 512), factor=0.5)[0] == 1


def test_a_crop_holds_no_class_too_much_where_another_can_be_had():
    """Left half sky, right half tree: without the rule some crops are of one class alone, with it none."""
    classes = np.zeros((32, 256), np.int16)
    classes[:, 128:] = 1
    pair = encode_pair(classes)
    shares = {}
    for largest in (1.0, 0.75):
        config = dataclasses.replace(
            PLAIN, scale=(256, 32), scale_factors=(1.0, 1.0), max_class_share=largest, crop_size=128
        )
        masks = [SegmentationTransform(config, num_classes=3)(*pair, key=(0, 0, n))[1] for n in range(20)]
        shares[largest] = [np.bincount(mask[mask != IGNORED]).max() / (mask != IGNORED).sum() for mask in masks]
    assert max(shares[1.0]) > 0.9
    assert np.mean(np.array(shares[0.75]) < 0.75) > 0.9


def test_an_image_smaller_than_the_crop_is_filled_with_the_mean_and_no_class():
    config = dataclasses.replace(PLAIN, scale=(24, 24), scale_factors=(1.0, 1.0), flip_probability=0.0)
    pixels, mask = SegmentationTransform(config, num_classes=3)(
        *encode_pair(np.zeros((48, 48), np.int16)), key=(0, 0, 0)
    )
    assert (mask[:24, :24] == 0).all()
    assert (mask[24:] == IGNORED).all()
    assert (mask[:, 24:] == IGNORED).all()
    assert pixels[30, 30].tolist() == [124, 116, 104]


def test_distortion_changes_colours_and_nothing_else_and_stays_within_its_range():
    grey = np.full((4, 4, 3), 100, np.uint8)
    found = np.stack([distort(grey, random.Random(seed)) for seed in range(200)]).astype(int)
    assert (found.max(axis=(1, 2)) == found.min(axis=(1, 2))).all(), "the same everywhere"
    levels = found[:, 0, 0, 0]
    assert levels.min() >= round((100 - 32) * 0.5) - 1
    assert levels.max() <= round((100 + 32) * 1.5) + 1
    assert len(set(levels.tolist())) > 50
    assert (levels == 100).mean() > 0.1, "a quarter has neither brightness nor contrast changed"
    red = np.full((4, 4, 3), (200, 50, 50), np.uint8)
    hues = {tuple(distort(red, random.Random(seed))[0, 0].tolist()) for seed in range(50)}
    assert len(hues) > 30


def test_draws_follow_from_the_key_alone():
    transform = SegmentationTransform(dataclasses.replace(PLAIN, photometric_distortion=True), num_classes=3)
    pair = encode_pair(make_classes(2).astype(np.int16))
    first = transform(*pair, key=(1, 0, 7))
    transform(*pair, key=(1, 0, 8))
    again = transform(*pair, key=(1, 0, 7))
    assert (first[0] == again[0]).all()
    assert (first[1] == again[1]).all()
    assert any((first[0] != transform(*pair, key=(1, epoch, 7))[0]).any() for epoch in (1, 2))


def test_a_mask_of_another_size_cannot_be_used():
    image, _ = encode_pair(np.zeros((8, 9), np.int16))
    mask = encode_mask(np.zeros((9, 8), np.int16), num_classes=3)
    with pytest.raises(UndecodableImageError, match="the mask has 8 x 9 pixels, the image 9 x 8"):
        SegmentationTransform(PLAIN, num_classes=3)(image, mask, key=(0, 0, 0))


def test_ranks_workers_and_restarts_change_nothing(masked, tmp_path):
    alone = collect(open_stream(masked, tmp_path, micro_batch_size=4))
    assert len(alone) == 12
    ranks = {}
    for rank in (0, 1):
        ranks |= collect(open_stream(masked, tmp_path, rank=rank, num_ranks=2, num_workers=rank))
    later = collect(open_stream(masked, tmp_path, micro_batch_size=4), first_step=2, num_steps=1)
    assert ranks.keys() == alone.keys()
    for key, (pixels, mask) in alone.items():
        assert torch.equal(ranks[key][0], pixels)
        assert torch.equal(ranks[key][1], mask)
    for (name, _), (pixels, mask) in later.items():
        assert torch.equal(alone[name, 2][0], pixels)
        assert torch.equal(alone[name, 2][1], mask)


def test_evaluation_gives_each_image_once_at_its_own_size(masked, tmp_path):
    seen = []
    for rank in (0, 1):
        config = SegmentationEvaluationConfig(shards=masked, index=tmp_path / "index")
        stream = open_segmentation_evaluation(config, world=dataclasses.replace(ALONE, rank=rank, num_ranks=2))
        batches = list(stream.iterate())
        assert len(batches) == 5
        for batch in batches:
            if batch.is_real.all():
                seen.append((batch.keys[0], *batch.images_bchw.shape[2:]))
                assert batch.masks_bhw.shape[1:] == batch.images_bchw.shape[2:]
                assert (batch.masks_bhw[0, 0] == IGNORED).all()
    assert len(seen) == len(set(seen)) == 9
    assert {size[1:] for size in seen} == {(60 + 3 * number, 80) for number in range(9)}
    assert not make_empty_batch().is_real.any()
    assert not stream.read([PADDING]).is_real.any()


def test_a_mask_of_a_class_that_the_set_does_not_name_cannot_be_used():
    """In tars that others made: else a loss, or a matrix of counts, would end in an error of torch's."""
    image, mask = encode_pair(np.zeros((48, 48), np.int16))[0], encode_mask(np.full((48, 48), 7), num_classes=9)
    with pytest.raises(
        UndecodableImageError, match="its mask holds class 7; the set's 3 classes are 0 to 2, and 255 or 65535 none"
    ):
        SegmentationTransform(PLAIN, num_classes=3)(image, mask, key=(0, 0, 0))


def copy_set(folder, tmp_path):
    copied = tmp_path / "copied"
    copied.mkdir()
    for path in folder.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    return copied


def test_a_damaged_mask_is_replaced_and_reported(masked, tmp_path):
    """The checksum of a whole sample is not known, so bytes that are no PNG show when they are decoded."""
    copied = copy_set(masked, tmp_path)
    tar = copied / "masked-train-000001.tar"
    with tarfile.open(tar) as opened:
        member = next(member for member in opened if member.name.endswith(".seg.png"))
    content = bytearray(tar.read_bytes())
    content[member.offset_data : member.offset_data + 20] = bytes(20)
    tar.write_bytes(content)
    stream = open_stream(copied, tmp_path, micro_batch_size=4)
    bad = [bad for batch in stream.iterate(0, 2) for bad in batch.bad_samples]
    assert [f"{sample.key}.seg.png" for sample in bad] == [f"masked-train-000001/{member.name}"]
    assert "not decodable" in bad[0].reason
    assert bad[0].substitute


def test_a_set_is_of_masks_though_its_first_sample_is_damaged(masked, tmp_path):
    copied = copy_set(masked, tmp_path)
    open_stream(copied, tmp_path).close()  # it is indexed now
    tar = copied / "masked-train-000000.tar"
    tar.write_bytes(bytes(100) + tar.read_bytes()[100:])
    stream = open_stream(copied, tmp_path, micro_batch_size=4)
    assert [bad.substitute != "" for batch in stream.iterate(0, 2) for bad in batch.bad_samples] == [True]


def test_a_set_without_masks_and_a_pattern_are_refused(tmp_path):
    write_shards(tmp_path / "plain", num_shards=1)
    index(tmp_path / "plain")
    with pytest.raises(
        UserError,
        match=r"data.shards: .*plain holds no masks \(.seg.png\) beside its images, only .cls, .*; give the folder "
        "of a set that `launch/shards.py build` made of images and masks",
    ):
        open_stream(tmp_path / "plain", tmp_path)
    with pytest.raises(UserError, match=r"data.shards: .* names tars, but masks need the names of their classes"):
        open_stream(str(tmp_path / "plain" / "*.tar"), tmp_path)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"scale": [512, 2048]}, "scale: must be the longer and the shorter edge"),
        ({"scale_factors": [2.0, 0.5]}, "scale_factors: must be two factors"),
        ({"crop_size": 16}, "crop_size: must be at least 32 pixels"),
        ({"max_class_share": 0}, "max_class_share: must be over 0"),
        ({"flip_probability": 2}, "flip_probability: must be a probability"),
    ],
)
def test_settings_of_the_transform_are_checked(values, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build_config(SegmentationTransformConfig, values, source="test")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"scale": [10, 10]}, "scale: must be the longer and the shorter edge, at least 32"),
        ({"crop_size": 16}, "crop_size: must be at least 32"),
        ({"stride": 600}, "stride: must be 1 to crop_size"),
        ({"factors": []}, "factors: must name at least one"),
        ({"num_workers": -1}, "num_workers: must be 0 or more"),
    ],
)
def test_settings_of_the_evaluation_are_checked(values, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build_config(SegmentationEvaluationConfig, {"shards": "x", **values}, source="test")

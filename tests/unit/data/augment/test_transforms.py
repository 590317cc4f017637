"""Against timm's own pipeline, torchvision's, and the laws of seeding by key."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from timm.data.transforms_factory import create_transform
from torchvision.transforms import InterpolationMode, functional

from hornet.data.augment.sampling import (
    NO_BOX,
    AugmentationSampler,
    sample_erase_box,
    seed_globally,
    unchanged_randomness,
)
from hornet.data.augment.transforms import (
    EvaluationTransform,
    TrainTransform,
    resize_centre,
)
from hornet.data.config import Interpolation, TransformConfig
from hornet.errors import UserError
from hornet.seeding import derive_seed
from hornet.shards.decode import MAX_PIXELS
from tests.unit.shards.making import encode, make_image

RECIPE = "rand-m9-mstd0.5-inc1"


def recipe(**changes: Any) -> TransformConfig:
    values: dict[str, Any] = {
        "image_size": 32,
        "flip_probability": 0.5,
        "rand_augment": RECIPE,
        "erase_probability": 0.25,
    }
    return TransformConfig(**values | changes)


@pytest.mark.parametrize("rand_augment", [None, RECIPE, "rand-m15-mstd0.5-inc1"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_are_timms_with_the_same_seed(rand_augment: str | None, interpolation: str) -> None:
    timms = create_transform(
        32,
        is_training=True,
        hflip=0.5,
        color_jitter=None,
        auto_augment=rand_augment,
        interpolation=interpolation,
        use_prefetcher=True,
    )
    ours = TrainTransform(recipe(rand_augment=rand_augment, interpolation=interpolation, backend="pil"))
    with unchanged_randomness():
        for sample in range(25):
            image = make_image(sample, width=40 + sample, height=70 - sample)
            found = ours(encode(image), key=(3, 1, sample))
            seed_globally(derive_seed("augment", 3, 1, sample))
            assert np.array_equal(found.transpose(2, 0, 1), timms(image).numpy())


@pytest.mark.parametrize("backend", ["fast", "pil"])
def test_the_key_alone_decides(backend: str) -> None:
    transform = TrainTransform(recipe(backend=backend))
    image = encode(make_image(5, width=64, height=64))
    with unchanged_randomness():
        first = transform(image, key=(0, 0, 1))
        others = [transform(image, key=key) for key in [(0, 0, 2), (0, 1, 1), (1, 0, 1)]]
        random.seed(99)
        assert np.array_equal(transform(image, key=(0, 0, 1)), first)
    assert not any(np.array_equal(other, first) for other in others)


def test_unchanged_randomness_restores_all_three_generators() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    seed_globally(7)
    expected = draw()
    seed_globally(7)
    with unchanged_randomness():
        TrainTransform(recipe())(encode(make_image(0)), key=(0, 0, 0))
    assert draw() == expected


@given(st.integers(0, 2**32), st.integers(8, 64), st.sampled_from([0.25, 0.5, 1.0]))
def test_boxes_are_those_timms_random_erasing_draws(seed: int, size: int, probability: float) -> None:
    with unchanged_randomness():
        random.seed(seed)
        erased = RandomErasing(probability=probability, mode="const", device="cpu")(torch.ones(3, size, size))
    top, left, height, width = sample_erase_box(random.Random(seed), image_size=size, probability=probability)
    expected = torch.ones(3, size, size)
    expected[:, top : top + height, left : left + width] = 0
    assert torch.equal(erased, expected)


def test_boxes_come_as_often_and_as_large_as_asked() -> None:
    transform = TrainTransform(recipe(image_size=224))
    boxes = [transform.sample_box(key=(0, 0, sample)) for sample in range(2000)]
    drawn = [box for box in boxes if box != NO_BOX]
    assert abs(len(drawn) / 2000 - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 2000)
    shares = [height * width / 224**2 for _, _, height, width in drawn]
    assert 0.019 < min(shares) < max(shares) < 0.335


def test_no_boxes_without_erasing() -> None:
    assert TrainTransform(recipe(erase_probability=0.0)).sample_box(key=(0, 0, 0)) == NO_BOX


@pytest.mark.parametrize(("width", "height"), [(50, 80), (80, 50), (40, 40), (300, 31)])
def test_evaluation_is_timms_resize_and_centre_crop(width: int, height: int) -> None:
    timms = create_transform(32, is_training=False, crop_pct=0.875, interpolation="bicubic", use_prefetcher=True)
    image = make_image(1, width=width, height=height)
    ours = EvaluationTransform(image_size=32, crop_fraction=0.875, interpolation="bicubic")
    assert np.array_equal(ours(encode(image)).transpose(2, 0, 1), timms(image).numpy())


def test_evaluation_without_a_crop_warps() -> None:
    timms = create_transform(
        32, is_training=False, crop_pct=1.0, crop_mode="squash", interpolation="bicubic", use_prefetcher=True
    )
    image = make_image(1, width=90, height=41)
    ours = EvaluationTransform(image_size=32, crop_fraction=None, interpolation="bicubic")
    assert np.array_equal(ours(encode(image)).transpose(2, 0, 1), timms(image).numpy())


@pytest.mark.parametrize("backend", ["fast", "pil"])
@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
@pytest.mark.parametrize("edges", [(1, 1), (1, 2), (3, 1), (1, 400)])
def test_images_of_a_pixel_or_three_are_trained_on(backend: str, image_format: str, edges: tuple[int, int]) -> None:
    transform = TrainTransform(TransformConfig(image_size=32, backend=backend))  # type: ignore[arg-type]
    content = encode(Image.new("RGB", edges, (200, 30, 90)), image_format)
    with unchanged_randomness():
        pixels = np.stack([transform(content, key=(0, 0, sample)) for sample in range(300)])
    assert pixels.shape == (300, 32, 32, 3)
    assert np.ptp(pixels, axis=(0, 1, 2)).max() <= 1, "of one colour"


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32), st.booleans())
def test_a_crop_is_timms_own_wherever_timm_finds_one(width: int, height: int, sample: int, is_thin: bool) -> None:
    ratio = (0.01, 0.02) if is_thin else (3 / 4, 4 / 3)
    sampler = AugmentationSampler(
        image_size=32, crop_scale=(0.08, 1.0), crop_ratio=ratio, flip_probability=0.0, rand_augment=None
    )
    with unchanged_randomness():
        crop = sampler(width=width, height=height, key=(0, 0, sample)).crop
        seed_globally(derive_seed("augment", 0, 0, sample))
        image = Image.new("RGB", (width, height))
        timms = RandomResizedCropAndInterpolation.get_params(image, (0.08, 1.0), ratio)  # type: ignore[no-untyped-call]
    top, left, crop_height, crop_width = crop
    assert crop_height >= 1
    assert crop_width >= 1
    assert top + crop_height <= height
    assert left + crop_width <= width
    if timms[2] and timms[3]:
        assert crop == timms


@given(
    st.integers(4, 200),
    st.integers(4, 200),
    st.sampled_from([16, 32, 57]),
    st.sampled_from([0.875, 0.95, 1.0]),
    st.sampled_from(["bicubic", "bilinear"]),
    st.integers(0, 9),
)
def test_the_centre_by_itself_is_that_of_the_whole_resized(
    width: int, height: int, size: int, crop_fraction: float, interpolation: Interpolation, seed: int
) -> None:
    """What thin images take, on ordinary ones: but for rounding, plain resize and crop."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image, short_edge = Image.fromarray(noise), int(size / crop_fraction)
    mode = InterpolationMode(interpolation)
    found = resize_centre(image, short_edge=short_edge, size=size, interpolation=mode)
    plain = functional.center_crop(functional.resize(image, [short_edge], mode), [size, size])
    difference = np.abs(np.asarray(found).astype(int) - np.asarray(plain))
    assert difference.max() <= 2
    assert difference.mean() < 0.1


@pytest.mark.parametrize("edges", [(20_000, 1), (1, 20_000), (1, 1_000_000), (900_000, 3)])
@pytest.mark.parametrize("crop_fraction", [0.875, None])
def test_evaluating_a_thin_image_takes_no_more_than_decoding_a_large_one(
    edges: tuple[int, int], crop_fraction: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    resize = Image.Image.resize

    def watch(image: Image.Image, size: tuple[int, int], *arguments: Any, **options: Any) -> Image.Image:
        made.append(max(size[0] * size[1], size[0] * image.height))  # Pillow goes across first, over all rows
        assert made[-1] <= MAX_PIXELS
        return resize(image, size, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", watch)
    ours = EvaluationTransform(image_size=224, crop_fraction=crop_fraction, interpolation="bicubic")
    pixels = ours(encode(Image.new("RGB", edges, (200, 30, 90))))
    assert made
    assert pixels.shape == (224, 224, 3)
    assert np.array_equal(np.unique(pixels.reshape(-1, 3), axis=0), [(200, 30, 90)])


@pytest.mark.slow
def test_a_warped_column_is_what_the_warped_row_is() -> None:
    values = np.random.default_rng(0).integers(0, 256, (1, 6_000_000, 3), dtype=np.uint8)
    row, column = (encode(Image.fromarray(pixels)) for pixels in (values, values.swapaxes(0, 1)))
    ours = EvaluationTransform(image_size=16, crop_fraction=None, interpolation="bilinear")
    assert np.array_equal(ours(row), ours(column).swapaxes(0, 1))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"image_size": 0}, "image_size: must be at least 1 pixel, not 0"),
        ({"crop_scale": (0.5, 0.1)}, r"crop_scale: must be two shares of the area.*not \(0\.5, 0\.1\)"),
        ({"crop_ratio": (0.0, 1.0)}, r"crop_ratio: must be two ratios"),
        ({"flip_probability": 1.5}, "flip_probability: must be a probability from 0 to 1, not 1.5"),
        ({"erase_probability": -1.0}, "erase_probability: must be a probability"),
        ({"rand_augment": "augmix-m3"}, "rand_augment: 'augmix-m3' is not a RandAugment text of timm's"),
        ({"rand_augment": "rand-x9"}, "rand_augment: 'rand-x9' is not"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=f"(?m)^{problem}"):
        recipe(**changes)

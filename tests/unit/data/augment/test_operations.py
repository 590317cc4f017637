"""Every compiled operation against timm's on Pillow, and the fast transform against the Pillow one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data.auto_augment import NAME_TO_OP, rand_augment_transform

from hornet.data.augment.operations import BICUBIC_OPERATIONS, COLOUR_OPERATIONS
from hornet.data.augment.sampling import unchanged_randomness
from hornet.data.augment.transforms import FILL, Pixels, TrainTransform
from hornet.data.config import TransformConfig
from tests.unit.shards.making import encode

MAX_DIFFERENCE = 0.3  # mean, of 255
NUM_IMAGES = 40
OFF_THE_EDGE = 1.7e-5
"""Added to arguments: where a place falls on the image's very edge, the last bit of a sum decides what is inside."""


EXAMPLES: dict[str, tuple[float, ...]] = {
    "AutoContrast": (), "Equalize": (), "Invert": (), "Posterize": (2,), "PosterizeIncreasing": (3,),
    "Solarize": (100,), "SolarizeIncreasing": (30,), "SolarizeAdd": (80,), "ShearX": (0.27,), "ShearY": (-0.27,),
    "TranslateXRel": (0.4,), "TranslateYRel": (-0.4,), "Rotate": (26.7,),
}  # fmt: skip


def photo(seed: int, *, width: int = 224, height: int = 224) -> Pixels:
    """Soft shapes with noise on them, over the whole range."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    soft = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.float64)
    return np.clip(soft + random.normal(0, 8, soft.shape), 0, 255).astype(np.uint8)


def with_pillow(pixels: Pixels, name: str, arguments: Iterable[float]) -> Pixels:
    image = Image.fromarray(pixels)
    return np.asarray(NAME_TO_OP[name](image, *arguments, resample=Image.Resampling.BICUBIC, fillcolor=FILL))


def compiled(pixels: Pixels, name: str, arguments: Iterable[float]) -> Pixels:
    if name in COLOUR_OPERATIONS:
        return COLOUR_OPERATIONS[name](pixels, *arguments)
    return BICUBIC_OPERATIONS[name](pixels, *arguments, fill=FILL)


def arguments_of(name: str) -> st.SearchStrategy[tuple[float, ...]]:
    """All that timm's functions of levels can give, and more."""
    if name in ("AutoContrast", "Equalize", "Invert"):
        return st.just(())
    if name.startswith("Posterize"):
        return st.tuples(st.integers(0, 8))
    if name.startswith("Solarize"):
        return st.tuples(st.integers(0, 256))
    if name in BICUBIC_OPERATIONS:
        limit, steps = (3_600, 10) if name == "Rotate" else (120, 100)
        is_exact = 900 if name == "Rotate" else limit  # right angles
        return st.tuples(
            st.integers(-limit, limit).map(lambda number: number / steps + OFF_THE_EDGE * bool(number % is_exact))
        )
    return st.tuples(st.floats(0.0, 2.0) | st.sampled_from([0.0, 1.0, 0.1]))


@pytest.mark.parametrize("text", ["rand-m9-mstd0.5", "rand-m9-mstd0.5-inc1"])
def test_all_that_rand_augment_does_is_compiled(text: str) -> None:
    names = {operation.name for operation in rand_augment_transform(text, {}).ops}
    assert len(names) == 15
    assert names <= set(COLOUR_OPERATIONS) | set(BICUBIC_OPERATIONS)


@pytest.mark.parametrize("name", list(COLOUR_OPERATIONS))
@settings(max_examples=25)
@given(data=st.data(), seed=st.integers(0, 999), width=st.integers(1, 60), height=st.integers(1, 60))
def test_colours_are_pillows_to_the_bit(name: str, data: st.DataObject, seed: int, width: int, height: int) -> None:
    pixels = photo(seed, width=width, height=height)
    if data.draw(st.booleans()):  # few levels, flat channels: what tables stumble over
        pixels = pixels // np.uint8(data.draw(st.integers(1, 200))) + np.uint8(data.draw(st.integers(0, 50)))
    arguments = data.draw(arguments_of(name))
    assert np.array_equal(compiled(pixels, name, arguments), with_pillow(pixels, name, arguments))


@pytest.mark.parametrize("name", list(BICUBIC_OPERATIONS))
@settings(max_examples=25)
@given(data=st.data(), seed=st.integers(0, 999), width=st.integers(1, 60), height=st.integers(1, 60))
def test_movements_are_pillows_but_for_rounding(
    name: str, data: st.DataObject, seed: int, width: int, height: int
) -> None:
    pixels = photo(seed, width=width, height=height)
    arguments = data.draw(arguments_of(name))
    found = compiled(pixels, name, arguments).astype(int)
    difference = np.abs(found - with_pillow(pixels, name, arguments))
    assert difference.max() <= 1
    if width * height > 500:  # of a few pixels, many may lie where rounding decides
        assert difference.mean() < MAX_DIFFERENCE


@pytest.mark.parametrize("name", [*COLOUR_OPERATIONS, *BICUBIC_OPERATIONS])
def test_images_of_the_models_size(name: str) -> None:
    for seed in range(3):
        pixels = photo(seed)
        arguments = EXAMPLES.get(name, (1.7,))
        before = pixels.copy()
        difference = np.abs(compiled(pixels, name, arguments).astype(int) - with_pillow(pixels, name, arguments))
        assert difference.mean() < (MAX_DIFFERENCE / 100 if name in BICUBIC_OPERATIONS else 1e-9)
        assert np.array_equal(pixels, before), "the argument is left alone"


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_fast_transform_makes_the_pixels_of_the_pillow_one(image_format: str, mode: str) -> None:
    """Same draws (else whole images differ), and nearly the same pixels: the resize rounds otherwise in a few."""
    configs = [
        TransformConfig(image_size=112, flip_probability=0.5, rand_augment="rand-m9-mstd0.5-inc1", backend=backend)
        for backend in ("fast", "pil")
    ]
    fast, pillow = (TrainTransform(config) for config in configs)
    differences = []
    with unchanged_randomness():
        for number in range(NUM_IMAGES):
            pixels = photo(number, width=150 + 7 * number, height=260 - 3 * number)
            content = encode(Image.fromarray(pixels).convert(mode), image_format)
            key = (0, 1, number)
            differences.append(np.abs(fast(content, key=key).astype(int) - pillow(content, key=key)))
    assert np.mean(differences) < MAX_DIFFERENCE
    assert np.median([difference.mean() for difference in differences]) < 0.05
    assert np.mean(np.array(differences) > 4) < 0.002


def test_a_cmyk_jpeg_is_decoded_as_pillow_does() -> None:
    content = encode(Image.fromarray(photo(1)).convert("CMYK"), "JPEG")
    fast, pillow = (TrainTransform(TransformConfig(image_size=64, backend=backend)) for backend in ("fast", "pil"))
    with unchanged_randomness():
        difference = fast(content, key=(0, 0, 0)).astype(int) - pillow(content, key=(0, 0, 0))
    assert np.abs(difference).max() <= 1

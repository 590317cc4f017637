"""Regions of JPEGs are cut out of what Pillow decodes, bit for bit, whoever decodes them."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hornet.data.augment import jpeg as regions
from hornet.data.augment.jpeg import HAS_NATIVE, decode_region, is_plain_jpeg
from hornet.shards.decode import UndecodableImageError, open_image
from tests.unit.data.augment.test_operations import photo

SUBSAMPLING = ["4:4:4", "4:2:2", "4:2:0"]

needs_native = pytest.mark.skipif(not HAS_NATIVE, reason="the package was installed without jpeg_region.c")
both = pytest.mark.parametrize("with_native", [False, pytest.param(True, marks=needs_native)])


def write_jpeg(pixels: np.ndarray[Any, Any], *, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def cut_out(content: bytes, region: tuple[int, int, int, int]) -> np.ndarray[Any, Any]:
    top, left, height, width = region
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))[top : top + height, left : left + width]


@both
@settings(max_examples=150)
@given(
    data=st.data(),
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    subsampling=st.sampled_from(SUBSAMPLING),
    mode=st.sampled_from(["RGB", "RGB", "RGB", "L"]),
    quality=st.integers(20, 100),
    restart=st.sampled_from([0, 0, 1, 3]),
    progressive=st.sampled_from([False, False, False, True]),
)
def test_a_region_is_what_pillow_decodes_there(
    with_native: bool,
    data: st.DataObject,
    width: int,
    height: int,
    subsampling: str,
    mode: str,
    quality: int,
    restart: int,
    progressive: bool,
) -> None:
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    region = (top, left, data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left)))
    options = {} if mode == "L" else {"subsampling": subsampling}
    content = write_jpeg(
        photo(quality, width=width, height=height),
        mode=mode,
        quality=quality,
        restart_marker_blocks=restart,
        progressive=progressive,
        **options,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regions, "HAS_NATIVE", with_native)
        found = decode_region(content, open_image(content), region)
    assert np.array_equal(found, cut_out(content, region))


@both
def test_large_images_with_orientation_and_comments(with_native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "HAS_NATIVE", with_native)
    exif = Image.Exif()
    exif[0x0112] = 6
    content = write_jpeg(photo(3, width=1000, height=700), exif=exif, comment=b"c" * 70, quality=93)
    for region in [(0, 0, 700, 1000), (699, 999, 1, 1), (200, 301, 333, 17), (0, 500, 1, 500)]:
        assert np.array_equal(decode_region(content, open_image(content), region), cut_out(content, region))


@both
@pytest.mark.parametrize("num_bytes", [700, -1, -2, -300])
def test_a_cut_jpeg_is_refused_wherever_the_region_lies(
    num_bytes: int, with_native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its upper rows could be had; but whether a sample is good must not hang on the crop or the machine."""
    monkeypatch.setattr(regions, "HAS_NATIVE", with_native)
    content = write_jpeg(photo(1))[:num_bytes]
    assert not is_plain_jpeg(content, open_image(content))
    with pytest.raises(UndecodableImageError, match=r"^not decodable \(RuntimeError: .*"):
        decode_region(content, open_image(content), (0, 0, 8, 8))


@needs_native
@settings(max_examples=300, deadline=None)
@given(data=st.data(), number=st.integers(0, 6), num_flips=st.integers(1, 5), restart=st.sampled_from([0, 0, 2]))
def test_flipped_bits_are_refused_on_every_machine_or_on_none(
    data: st.DataObject, number: int, num_flips: int, restart: int
) -> None:
    """Wherever the region lies: damage below it counts, with the extension and without."""
    content = bytearray(
        write_jpeg(
            photo(number, width=64, height=48),
            quality=data.draw(st.sampled_from([50, 92])),
            subsampling=data.draw(st.sampled_from(SUBSAMPLING)),
            restart_marker_blocks=restart,
        )
    )
    for _ in range(num_flips):
        content[data.draw(st.integers(20, len(content) - 3))] ^= 1 << data.draw(st.integers(0, 7))
    assert_same_fate(bytes(content), data.draw(st.integers(1, 20)))


@needs_native
def test_a_marker_below_the_region_is_damage_everywhere() -> None:
    content = bytearray(write_jpeg(photo(1, width=64, height=256), quality=92))
    for place in range(len(content) // 2, len(content) - 3, 37):
        damaged = bytes(content[:place]) + b"\xff\xc4" + bytes(content[place + 2 :])  # a table in the middle of bits
        assert_same_fate(damaged, 8)


def assert_same_fate(content: bytes, height: int) -> None:
    """Refused with the extension and without, or the same pixels of the uppermost rows."""
    try:
        image = open_image(content)
    except UndecodableImageError:
        return
    region = (0, 0, min(height, image.height), image.width)
    found: list[bytes | None] = []
    for with_native in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(regions, "HAS_NATIVE", with_native)
            try:
                found.append(decode_region(content, open_image(content), region).tobytes())
            except UndecodableImageError:
                found.append(None)
    assert found[0] == found[1]


@needs_native
def test_what_the_native_decoder_refuses() -> None:
    from hornet.data.augment import jpeg_region

    content = write_jpeg(photo(1, width=40, height=30))
    pixels = np.zeros((30, 40, 3), np.uint8)
    with pytest.raises(ValueError, match="the region lies outside of 40 x 30 pixels"):
        jpeg_region.decode_into(content, pixels, 1, 0, 30, 40)
    with pytest.raises(ValueError, match="the buffer does not fit"):
        jpeg_region.decode_into(content, pixels, 0, 0, 30, 41)
    with pytest.raises(ValueError, match="Not a JPEG file"):
        jpeg_region.decode_into(b"no image at all", pixels, 0, 0, 30, 40)
    with pytest.raises(ValueError, match="the buffer does not fit"):
        jpeg_region.decode_into(content, np.zeros(0, np.uint8), 0, 0, 0, 0)


@needs_native
@settings(max_examples=300)
@given(data=st.data(), num_flips=st.integers(1, 12))
def test_damaged_bytes_do_no_harm(data: st.DataObject, num_flips: int) -> None:
    """Either an error or pixels, never a crash: shards may come from strangers."""
    from hornet.data.augment import jpeg_region

    content = bytearray(write_jpeg(photo(5, width=64, height=48)))
    for _ in range(num_flips):
        content[data.draw(st.integers(2, len(content) - 1))] = data.draw(st.integers(0, 255))
    pixels = np.empty((20, 30, 3), np.uint8)
    with suppress(ValueError):
        jpeg_region.decode_into(bytes(content), pixels, 11, 7, 20, 30)

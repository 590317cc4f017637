from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from hornet.shards import decode
from hornet.shards.decode import UndecodableImageError, decode_image
from tests.unit.shards.making import encode, make_image


def pixels(content: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    image = decode_image(content)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA"])
def test_modes_become_rgb_as_pillow_converts(mode: str) -> None:
    image = make_image(1).convert(mode)
    assert np.array_equal(pixels(encode(image)), np.asarray(image.convert("RGB")))


def test_cmyk_jpeg() -> None:
    content = encode(make_image(1).convert("CMYK"), "JPEG")
    assert np.array_equal(pixels(content), np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))


def test_alpha_is_dropped_not_blended() -> None:
    image = Image.new("RGBA", (4, 3), (10, 20, 30, 0))
    assert pixels(encode(image))[0, 0].tolist() == [10, 20, 30]


def test_a_palette_with_transparency_keeps_its_colours() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([1, 2, 3, 4, 5, 6])
    image.putpixel((1, 0), 1)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=b"\x00\xff")
    assert pixels(buffer.getvalue()).tolist() == [[[1, 2, 3], [4, 5, 6]]]


def test_sixteen_bits_keep_their_upper_eight() -> None:
    values = np.array([[0, 255, 256, 0x1234, 65535]], dtype=np.uint16)
    found = pixels(encode(Image.fromarray(values)))
    assert found[0, :, 0].tolist() == [0, 0, 1, 0x12, 255]


def test_exif_orientation_is_left_alone() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    buffer = io.BytesIO()
    make_image(1, width=30, height=10).save(buffer, "JPEG", exif=exif)
    assert pixels(buffer.getvalue()).shape == (10, 30, 3)


@pytest.mark.parametrize("length", [0, 10, 200])
def test_a_cut_jpeg_is_refused(length: int) -> None:
    content = encode(make_image(1, width=200, height=200), "JPEG")
    with pytest.raises(UndecodableImageError, match=r"^not decodable \(\w+: .*\)$"):
        decode_image(content[:length] if length else content[:-300])


def test_reasons_do_not_hold_addresses() -> None:
    with pytest.raises(UndecodableImageError) as caught:
        decode_image(b"nothing")
    assert str(caught.value) == "not decodable (UnidentifiedImageError: cannot identify image file)"


def test_formats_that_shards_may_not_hold_are_refused() -> None:
    with pytest.raises(UndecodableImageError, match="cannot identify"):
        decode_image(encode(make_image(1), "TIFF"))


def test_absurd_sizes_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MAX_PIXELS", 519)
    with pytest.raises(UndecodableImageError, match="26 x 20 pixels; 519 are the limit"):
        decode_image(encode(make_image(1)))


def test_pillows_own_bomb_error_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UndecodableImageError, match="DecompressionBombError"):
        decode_image(encode(make_image(1)))

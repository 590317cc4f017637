"""What becomes of one image: copied, written anew, mended, dropped."""

from __future__ import annotations

import gzip
import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from hornet.errors import UserError
from hornet.shards.build import image as module
from hornet.shards.build.image import DroppedImageError, ImageOptions, prepare_image
from hornet.shards.decode import decode_image
from tests.unit.shards.making import encode, make_image


def size(content: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(content)).size


def drop(content: bytes, **options: object) -> DroppedImageError:
    with pytest.raises(DroppedImageError) as caught:
        prepare_image(content, ImageOptions(**options))  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize(("image_format", "extension"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")])
def test_known_formats_keep_their_bytes_and_get_their_true_extension(image_format: str, extension: str) -> None:
    content = encode(make_image(1), image_format)
    made = prepare_image(content, ImageOptions())
    assert (made.extension, made.content, made.mended) == (extension, content, None)


@pytest.mark.parametrize("image_format", ["GIF", "BMP"])
def test_other_formats_are_written_anew_without_loss(image_format: str) -> None:
    content = encode(make_image(1), image_format)
    made = prepare_image(content, ImageOptions())
    assert made.extension == "png"
    assert np.array_equal(np.asarray(decode_image(made.content)), np.asarray(decode_image(content)))


def test_gzip_is_removed_and_told() -> None:
    content = encode(make_image(1), "JPEG")
    made = prepare_image(gzip.compress(content), ImageOptions())
    assert (made.content, made.mended) == (content, "gunzipped")
    assert "damaged gzip" in drop(gzip.compress(content)[:-9]).reason


def test_a_gzip_bomb_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CONTENT_BYTES", 1000)
    assert "unfolds to more than 1000 bytes" in drop(gzip.compress(bytes(100_000))).reason


def test_the_short_edge_is_made_smaller_never_larger() -> None:
    large, small = (
        encode(make_image(1, width=90, height=60), "JPEG"),
        encode(make_image(1, width=30, height=50), "JPEG"),
    )
    options = ImageOptions(max_short_edge=40)
    made = prepare_image(large, options)
    assert size(made.content) == (60, 40)
    assert made.extension == "jpg"
    assert prepare_image(small, options).content == small
    by_hand = decode_image(large).resize((60, 40), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    by_hand.save(buffer, "JPEG", quality=90)
    assert made.content == buffer.getvalue()


def test_quality_and_format_are_those_asked_for() -> None:
    content = encode(make_image(1, width=200, height=200), "PNG")
    fine, coarse = (
        prepare_image(content, ImageOptions(rewrite_all=True, written_format="jpeg", quality=quality))
        for quality in (95, 10)
    )
    assert len(coarse.content) < len(fine.content)
    assert prepare_image(content, ImageOptions(rewrite_all=True, written_format="webp")).extension == "webp"


def turned(orientation: int, profile: bytes | None = None) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    make_image(3, width=30, height=20).save(buffer, "PNG", exif=exif, icc_profile=profile)
    return buffer.getvalue()


def test_orientation_is_applied_only_if_asked() -> None:
    content = turned(6)
    assert prepare_image(content, ImageOptions()).content == content
    made = prepare_image(content, ImageOptions(apply_orientation=True))
    expected = np.rot90(np.asarray(decode_image(content)), k=-1)  # 6: the camera lay on its left, turn clockwise
    assert np.array_equal(np.asarray(decode_image(made.content)), expected)
    assert prepare_image(turned(1), ImageOptions(apply_orientation=True)).content == turned(1)


def test_colour_is_converted_only_if_asked() -> None:
    lab_like = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content = turned(1, srgb)
    assert prepare_image(content, ImageOptions()).content == content
    made = prepare_image(content, ImageOptions(convert_colour=True))
    difference = np.asarray(decode_image(made.content), int) - np.asarray(decode_image(content), int)
    assert abs(difference).max() <= 1, "sRGB to sRGB"
    assert "icc_profile" not in Image.open(io.BytesIO(made.content)).info
    assert prepare_image(turned(1, lab_like), ImageOptions(convert_colour=True)).extension == "png", "no use, no crash"


def test_damaged_images_are_dropped_with_a_reason() -> None:
    whole = encode(make_image(1, width=99, height=99), "JPEG")
    assert drop(b"").reason == "an empty file"
    assert drop(b"no image").kind == "undecodable"
    assert drop(whole[:-300]).reason.startswith("not decodable (OSError")
    assert prepare_image(whole[:-300], ImageOptions(check="header")).content == whole[:-300]
    assert drop(encode(make_image(1, width=9, height=99)), min_short_edge=10).kind == "small"


def test_a_cut_jpeg_is_repaired_if_asked() -> None:
    whole = encode(make_image(1, width=99, height=99), "JPEG")
    made = prepare_image(whole[:-300], ImageOptions(repair=True))
    assert made.mended is not None
    assert made.mended.startswith("decoded as far as it goes: not decodable")
    before, after = np.asarray(decode_image(whole)), np.asarray(decode_image(made.content))
    assert np.array_equal(before[:16], after[:16]), "the first rows came before the cut"
    assert drop(b"no image", repair=True).kind == "undecodable"


def test_a_cut_jpeg_that_cannot_be_written_is_dropped() -> None:
    """WebP ends at 16,383 pixels; a build that ended here would end here again each time."""
    wide = encode(make_image(4, width=16_400, height=32), "JPEG")
    dropped = drop(wide[:-3000], repair=True, written_format="webp")
    assert dropped.kind == "undecodable"
    assert "cannot be written as webp" in dropped.reason


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"min_short_edge": 0}, "min-short-edge: must be at least 1 pixel, not 0"),
        ({"max_short_edge": 5, "min_short_edge": 6}, r"max-short-edge: must be at least min-short-edge \(6\), not 5"),
        ({"quality": 0}, "quality: must be 1 to 100, not 0"),
    ],
)
def test_bad_options_are_named(options: dict[str, int], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        ImageOptions(**options)  # type: ignore[arg-type]


def test_the_fast_look_at_a_jpeg_agrees_with_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    for options in ({}, {"progressive": True}, {"exif": b"Exif\0\0" + bytes(60)}, {"comment": b"c" * 300}):
        buffer = io.BytesIO()
        make_image(1, width=57, height=31).save(buffer, "JPEG", **options)
        header = module._read_jpeg_header(buffer.getvalue())
        assert header is not None
        assert header.size == (57, 31)
    for content in (b"", b"\xff\xd8\xff", buffer.getvalue()[:20], encode(make_image(1), "PNG")):
        assert module._read_jpeg_header(content) is None
    monkeypatch.setattr(module, "MAX_PIXELS", 57 * 31 - 1)
    assert drop(buffer.getvalue()).kind == "large"

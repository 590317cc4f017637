"""What a page about a set shows: counts from manifest and index, images from a small random sample of the tars."""

from __future__ import annotations

import base64
import io
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from hornet.seeding import permute
from hornet.shards.decode import FORMATS, UndecodableImageError, decode_image
from hornet.shards.manifest import Manifest
from hornet.shards.reader import ShardReader, UnreadableSampleError
from hornet.shards.shard_set import ShardSet, open_shards
from hornet.shards.summary import read_image_bytes

THUMBNAIL_PIXELS = 176
THUMBNAIL_QUALITY = 72


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One sample as an image on a page."""

    key: str
    """`SHARD/STEM`."""
    class_name: str
    """As in the label space."""
    size: tuple[int, int] | None
    """Width and height in pixels; None if it is damaged."""
    thumbnail: str
    """A `data:` address of a small JPEG; empty if it is damaged."""
    problem: str = ""
    """What is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class SplitSurvey:
    """What is known of one split."""

    name: str
    """As in the manifest: `train`, `validation`, ..."""
    class_counts: npt.NDArray[np.int64]
    """Samples of each class."""
    image_bytes: npt.NDArray[np.int64]
    """Of each image of the split, with its header in the tar."""
    sizes: npt.NDArray[np.int64]
    """(n, 2) widths and heights of the sampled images."""
    damaged: tuple[Tile, ...]
    """Sampled images that could not be read."""
    num_read: int
    """Images in the random sample."""
    tiles: tuple[Tile, ...]
    """Some of it, to look at, damaged ones too."""


def survey_split(manifest: Manifest, name: str, *, num_read: int, num_shown: int, seed: int = 0) -> SplitSurvey:
    """Look at a random sample of a split, the same for the same seed and split.

    Raises UserError if its files are not those of the manifest; damaged samples are part of the result.
    """
    shards = open_shards(manifest.path.parent, name)
    chosen = permute(shards.num_samples, "survey", seed)[:num_read].tolist()
    reader = ShardReader(shards)
    sizes, damaged, tiles = [], [], []
    try:
        for number, sample in enumerate(chosen):
            tile = look_at(shards, reader, sample, renders_thumbnail=number < num_shown)
            if tile.size is None:
                damaged.append(tile)
            else:
                sizes.append(tile.size)
            if number < num_shown:
                tiles.append(tile)
    finally:
        reader.close()
    image_bytes = read_image_bytes(manifest, shards.split)
    assert image_bytes is not None  # open_shards has read the index
    return SplitSurvey(
        name=name,
        class_counts=np.bincount(shards.records["label"], minlength=len(shards.label_space)),
        image_bytes=image_bytes,
        sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
        damaged=tuple(damaged),
        num_read=len(chosen),
        tiles=tuple(tiles),
    )


def look_at(shards: ShardSet, reader: ShardReader, sample: int, *, renders_thumbnail: bool) -> Tile:
    """Read one sample; without a thumbnail only the header of its image is decoded."""
    class_name = shards.label_space.classes[int(shards.records["label"][sample])]
    key = ""
    try:
        raw = reader.read(sample)
        key = raw.key
        size = _read_size(raw.image)
        thumbnail = _make_thumbnail(raw.image) if renders_thumbnail else ""
    except UnreadableSampleError as error:
        return Tile(key=error.key, class_name=class_name, size=None, thumbnail="", problem=error.reason)
    except UndecodableImageError as error:
        return Tile(key=key, class_name=class_name, size=None, thumbnail="", problem=str(error))
    return Tile(key=key, class_name=class_name, size=size, thumbnail=thumbnail)


def _read_size(content: bytes) -> tuple[int, int]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(content), formats=FORMATS).size
    except Exception as error:  # as in decode_image: Pillow's plugins raise anything
        raise UndecodableImageError(f"no image ({type(error).__name__})") from error


def _make_thumbnail(content: bytes) -> str:
    image = decode_image(content)
    image.thumbnail((THUMBNAIL_PIXELS * 3, THUMBNAIL_PIXELS), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=THUMBNAIL_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")

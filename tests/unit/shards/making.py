"""Small sets made on the spot: a few noisy squares in tars."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import webdataset
from PIL import Image

from hornet.shards.indexing.index_set import IndexPlan, index_folder
from hornet.world import ALONE, World

NUM_CLASSES = 5
NOT_AN_IMAGE = b"this is no image"


def make_image(seed: int, *, width: int = 26, height: int = 20) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, image_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format)
    return buffer.getvalue()


def write_shard(path: Path, samples: Iterable[tuple[str, str, bytes, int]]) -> None:
    """(stem, extension, image, label) each, by webdataset's own writer."""
    with webdataset.TarWriter(str(path)) as writer:
        for stem, extension, image, label in samples:
            writer.write({"__key__": stem, extension: image, "cls": label, "json": {"label": label}})


def write_shards(
    folder: Path, *, num_shards: int = 4, samples_per_shard: int = 12, replaced: Mapping[int, bytes] | None = None
) -> None:
    """Sample `i` has stem `s000i` and label `i % 5`; `replaced` gives some other content."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(num_shards):
        numbers = range(shard * samples_per_shard, (shard + 1) * samples_per_shard)
        samples = []
        for number in numbers:
            extension, image_format = [("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")][number % 3]
            image = (replaced or {}).get(number, encode(make_image(number), image_format))
            samples.append((f"s{number:04d}", extension, image, number % NUM_CLASSES))
        write_shard(folder / f"toy-{shard:02d}.tar", samples)


def index(
    folder: Path,
    *,
    split: str | None = "train",
    classes: Path | None = None,
    output: Path | None = None,
    checksums: bool = True,
) -> Path:
    values = {"folder": folder, "output": output or folder, "split": split, "pattern": "*.tar", "classes": classes}
    index_folder(IndexPlan(**values, name=None, checksums=checksums))  # type: ignore[arg-type]
    return output or folder


def make_set(folder: Path, **options: object) -> Path:
    """A whole set; its label space is numbered."""
    write_shards(folder, **options)  # type: ignore[arg-type]
    return index(folder)


def rank_of(rank: int, num_ranks: int) -> World:
    return dataclasses.replace(ALONE, rank=rank, num_ranks=num_ranks, local_rank=rank, num_local_ranks=num_ranks)


def flip_bit(path: Path, *, byte: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


def key_hash(key: str) -> int:
    """By hand, from the definition in the interface."""
    unsigned = int(hashlib.sha256(key.encode()).hexdigest()[:16], 16)
    return unsigned - 2**64 if unsigned >= 2**63 else unsigned

"""Perceptual hashes of a split's images, kept in a file for each shard, so that a stopped run goes on.

A hash is imagehash's pHash of 16 x 16 = 256 bits: the signs, about their median, of the low frequencies of the image
shrunk to 64 x 64 grey pixels. Images that look alike differ in few bits.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from isal.isal_zlib import crc32
from PIL import Image
from tqdm import tqdm

from hornet.durable import write_bytes
from hornet.errors import UserError
from hornet.shards.decode import UndecodableImageError, convert_to_rgb, describe_error, open_image
from hornet.shards.processes import map_in_processes
from hornet.shards.reader import ShardReader, UnreadableSampleError
from hornet.shards.shard_set import ShardSet, shard_stem

HASH_SIDE = 16
NUM_WORDS = HASH_SIDE * HASH_SIDE // 64
GREY_SIDE = 4 * HASH_SIDE  # what pHash shrinks to
DRAFT_SIDE = 4 * GREY_SIDE
"""A JPEG is decoded at the smallest of 1, 1/2, 1/4, 1/8 that leaves this many pixels: enough for a hash of 64 x 64."""

FLAT_CONTRAST = 5.0
"""Standard deviation of the grey image, of 255, below which noise decides the hash: blank and plain images."""

USABLE, FLAT, DAMAGED = range(3)
HASH_RECORD = np.dtype([("words", "<u8", (NUM_WORDS,)), ("crc", "<u4"), ("state", "u1")])
"""words: the hash's bits; crc: zlib.crc32 of the image's bytes, which an index may lack, or UNKNOWN_CRC if they cannot
be read; state: USABLE, FLAT (not to be compared) or DAMAGED (no hash)."""

Hashes = npt.NDArray[np.void]

INSTALL = "pip install imagehash scipy"


@dataclass(frozen=True, kw_only=True)
class HashCache:
    """Where the hashes of one split are kept: a folder that names what they depend on."""

    folder: Path
    """Of this split, hash and library version."""
    shards: ShardSet
    """The split whose images are hashed."""

    def path(self, number: int) -> Path:
        """Return the file of a shard."""
        return self.folder / f"{shard_stem(self.shards.split.shards[number])}.npy"

    def read(self, number: int) -> Hashes | None:
        """Return the hashes of a shard, in the order of the index; None if they are not there whole."""
        try:
            hashes: Hashes = np.load(self.path(number), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        is_whole = hashes.dtype == HASH_RECORD and len(hashes) == self.shards.split.shard_lengths[number]
        return hashes if is_whole else None


def import_imagehash() -> Any:
    """Return the library; raises UserError with the command that installs it."""
    try:
        import imagehash
        import scipy.fftpack
    except ImportError as error:
        raise UserError(f"near-duplicates need the packages imagehash and scipy ({error}); run `{INSTALL}`") from error
    assert scipy.fftpack  # imported by imagehash only when it hashes
    return imagehash


def open_cache(folder: Path, shards: ShardSet) -> HashCache:
    """Return the cache of a split below `folder`, made if it is not there."""
    version = import_imagehash().__version__
    own = folder / f"{shards.split.name}-{shards.fingerprint[:16]}-phash{HASH_SIDE}-imagehash-{version}"
    own.mkdir(parents=True, exist_ok=True)
    return HashCache(folder=own, shards=shards)


def hash_split(cache: HashCache, *, num_workers: int) -> None:
    """Hash all shards of a split that have no hashes yet, in parallel; those done stay when this is stopped."""
    split = cache.shards.split
    missing = [number for number in range(len(split.shards)) if cache.read(number) is None]
    with tqdm(total=split.num_samples, desc=f"hashes {split.name}", unit=" images", disable=None) as progress:
        done = split.num_samples - sum(split.shard_lengths[number] for number in missing)
        progress.update(done)
        progress.initial = done  # the rate is that of this run
        for num_images in map_in_processes(
            _hash_shard, missing, num_workers=num_workers, initializer=_start, arguments=(cache,)
        ):
            progress.update(num_images)


def read_hashes(cache: HashCache) -> Iterator[Hashes]:
    """Yield the hashes of each shard, all of which have been made."""
    for number in range(len(cache.shards.split.shards)):
        hashes = cache.read(number)
        if hashes is None:
            raise UserError(f"{cache.path(number)}: was removed or changed meanwhile; start again")
        yield hashes


def hash_image(content: bytes) -> tuple[npt.NDArray[np.uint64], int]:
    """Return the words and the state of an image's hash; raises UndecodableImageError."""
    grey = _decode_grey(content)
    if float(np.asarray(grey.resize((GREY_SIDE, GREY_SIDE), Image.Resampling.BOX)).std()) < FLAT_CONTRAST:
        return np.zeros(NUM_WORDS, np.uint64), FLAT
    bits = import_imagehash().phash(grey, hash_size=HASH_SIDE).hash
    return np.packbits(bits.ravel()).view("<u8"), USABLE


def _decode_grey(content: bytes) -> Image.Image:
    image = open_image(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.draft("L", (DRAFT_SIDE, DRAFT_SIDE))  # JPEG only; others ignore it
            return image.convert("L") if image.mode == "L" else convert_to_rgb(image).convert("L")
    except Exception as error:
        raise describe_error(error) from error


_cache: HashCache | None = None


def _start(cache: HashCache) -> None:
    global _cache
    _cache = cache


def _hash_shard(number: int) -> int:
    assert _cache is not None
    shards = _cache.shards
    first, stop = int(shards.starts[number]), int(shards.starts[number + 1])
    hashes = np.zeros(stop - first, dtype=HASH_RECORD)
    reader = ShardReader(shards)
    try:
        for row in range(stop - first):
            try:
                image = reader.read(first + row).image
                hashes[row]["crc"] = crc32(image)
                hashes[row]["words"], hashes[row]["state"] = hash_image(image)
            except (UnreadableSampleError, UndecodableImageError):
                hashes[row]["state"] = DAMAGED
    finally:
        reader.close()
    buffer = io.BytesIO()
    np.save(buffer, hashes, allow_pickle=False)
    write_bytes(_cache.path(number), buffer.getvalue())
    return len(hashes)

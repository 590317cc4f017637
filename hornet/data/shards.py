"""A split opened for reading: any sample by its number, by one seek, with its header and checksum checked."""

from __future__ import annotations

import hashlib
import io
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from isal.isal_zlib import crc32

from hornet.data.index import RECORD, UNKNOWN_CRC, Records
from hornet.data.label_space import LabelSpace
from hornet.data.manifest import INDEX_COMMAND, Manifest, Split, fingerprint_split, is_url, read_manifest
from hornet.data.tar import TarError, read_member, split_name
from hornet.errors import UserError

MAX_OPEN_SHARDS = 256  # a process; well below the usual limit of 1,024 open files


@dataclass(frozen=True, kw_only=True)
class ShardSet:
    """A split whose files were found to be those of its manifest."""

    folder: Path
    """Where the tars are."""
    split: Split
    """As the manifest describes it."""
    label_space: LabelSpace
    """What its labels mean."""
    fingerprint: str
    """See `fingerprint_split`: for run records and checks on resume."""
    records: Records
    """The index, memory-mapped."""
    starts: np.ndarray[tuple[int], np.dtype[np.int64]]
    """(num_shards + 1,) number of each shard's first sample, and the number of samples at the end."""

    @property
    def num_samples(self) -> int:
        """Samples in the split."""
        return len(self.records)

    def shard_of(self, sample: int) -> int:
        """Return the number of the shard that holds a sample."""
        return int(np.searchsorted(self.starts, sample, side="right")) - 1


@dataclass(frozen=True, kw_only=True)
class RawSample:
    """One sample as it stands in the tar."""

    key: str
    """`SHARD/STEM`."""
    label: int
    """In the set's label space."""
    image: bytes
    """The encoded image; its checksum agrees with the index, if that has one."""


class UnreadableSampleError(Exception):
    """A sample whose bytes are not those the index describes, or cannot be read."""

    def __init__(self, key: str, reason: str) -> None:
        self.key = key
        self.reason = reason
        super().__init__(f"{key}: {reason}")


def open_shards(folder: Path, split_name: str) -> ShardSet:
    """Open a split of the set in `folder`, after checking its tars' sizes, its index and its labels.

    Raises UserError, naming the file, what was found and what was recorded.
    """
    manifest = read_manifest(folder)
    split = manifest.split(split_name)
    if is_url(split.shard_folder):
        raise UserError(
            f"{manifest.path}: the tars of split {split_name!r} are at {split.shard_folder}, and training reads local "
            f"tars only; copy them to a folder and run `{INDEX_COMMAND} THAT_FOLDER`"
        )
    shard_folder = folder / split.shard_folder
    _check_sizes(shard_folder, split)
    records = open_index(folder / split.index, split)
    starts = np.concatenate([[0], np.cumsum(split.shard_lengths)]).astype(np.int64)
    shards = ShardSet(
        folder=shard_folder,
        split=split,
        label_space=manifest.label_space,
        fingerprint=fingerprint_split(split, manifest.label_space),
        records=records,
        starts=starts,
    )
    _check_labels(shards, manifest)
    return shards


class ShardReader:
    """Reads samples of one set in one process; keeps the tars used last open."""

    def __init__(self, shards: ShardSet) -> None:
        self._shards = shards
        self._descriptors: OrderedDict[int, int] = OrderedDict()

    def read(self, sample: int) -> RawSample:
        """Read one sample; raises UnreadableSampleError."""
        record = self._shards.records[sample]
        shard = self._shards.shard_of(sample)
        offset, span = int(record["offset"]), int(record["span"])
        name = shard_stem(self._shards.split.shards[shard])
        key = f"{name}/@{offset}"
        try:
            content = os.pread(self._open(shard), span, offset)
            member = read_member(io.BytesIO(content).read, offset=offset)
        except OSError as error:
            raise UnreadableSampleError(key, f"cannot be read ({error.strerror})") from error
        except TarError as error:
            raise UnreadableSampleError(key, str(error)) from error
        if member is None or member.payload_offset + member.size != offset + span:
            raise UnreadableSampleError(key, "the tar holds another member here than the index says")
        key = f"{name}/{split_name(member.name)[0]}"
        image = content[member.payload_offset - offset :]
        if len(image) < member.size:
            raise UnreadableSampleError(key, f"the tar ends within it, at byte {offset + len(content)}")
        crc = crc32(image)
        if record["crc"] not in (crc, UNKNOWN_CRC):
            raise UnreadableSampleError(
                key, f"checksum {crc:08x}, the index says {int(record['crc']):08x}: damaged bytes"
            )
        return RawSample(key=key, label=int(record["label"]), image=image)

    def forget(self, sample: int) -> None:
        """Close a sample's tar, so that the next read opens it anew (a file system may have lost the old handle)."""
        descriptor = self._descriptors.pop(self._shards.shard_of(sample), None)
        if descriptor is not None:
            os.close(descriptor)

    def close(self) -> None:
        """Close all tars."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def _open(self, shard: int) -> int:
        if shard in self._descriptors:
            self._descriptors.move_to_end(shard)
            return self._descriptors[shard]
        while len(self._descriptors) >= MAX_OPEN_SHARDS:
            os.close(self._descriptors.popitem(last=False)[1])
        path = self._shards.folder / self._shards.split.shards[shard]
        self._descriptors[shard] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return self._descriptors[shard]


def shard_stem(shard: str) -> str:
    """Return a tar's file name without folders and `.tar`: the first half of its samples' keys."""
    return Path(shard).name.removesuffix(".tar")


def _check_sizes(folder: Path, split: Split) -> None:
    for shard, recorded in zip(split.shards, split.shard_bytes, strict=True):
        path = folder / shard
        try:
            found = path.stat().st_size
        except OSError as error:
            raise UserError(
                f"{path}: shard of split {split.name!r} cannot be found ({error.strerror}); copy it there again"
            ) from error
        if found != recorded:
            state = "it was cut" if found < recorded else "it was changed"
            raise UserError(
                f"{path}: has {found} bytes, the manifest says {recorded}; {state}, copy it again "
                f"(or run `{INDEX_COMMAND}` if the new content is wanted)"
            )


def open_index(path: Path, split: Split) -> Records:
    """Map a split's index into memory; raises UserError if it does not belong to the manifest."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != split.index_sha256:
            raise UserError(
                f"{path}: SHA-256 is {found}, the manifest says {split.index_sha256}; the index does not belong to the "
                f"manifest, copy both again or run `{INDEX_COMMAND}`"
            )
        records: Records = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise UserError(f"{path}: the index cannot be read ({error.strerror}); run `{INDEX_COMMAND}`") from error
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: is not an index ({error}); run `{INDEX_COMMAND}`") from error
    if records.dtype != RECORD or len(records) != split.num_samples:
        raise UserError(
            f"{path}: holds {len(records)} records of type {records.dtype}, the manifest's shards hold "
            f"{split.num_samples} samples of type {RECORD}; run `{INDEX_COMMAND}`"
        )
    return records


def _check_labels(shards: ShardSet, manifest: Manifest) -> None:
    labels = shards.records["label"]
    num_classes = len(shards.label_space)
    outside = (labels < 0) | (labels >= num_classes)
    if not outside.any():
        return
    sample = int(outside.argmax())
    raise UserError(
        f"{manifest.path}: {int(outside.sum())} samples of split {shards.split.name!r} have labels outside the label "
        f"space {shards.label_space.name!r} of {num_classes} classes (0 to {num_classes - 1}); the first is label "
        f"{int(labels[sample])} in {shards.split.shards[shards.shard_of(sample)]} at byte "
        f"{int(shards.records['offset'][sample])}; index the shards with the right `--classes`"
    )

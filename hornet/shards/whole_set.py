"""A set of whole samples: any tars, indexed the first time they are opened; ranks of a node share the work.

The index (20 bytes a sample) and a line about it stay in a folder of the user's choice, under a name that follows from
the tars' names. Not here: reading samples (`whole_reader.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hornet.durable import hash_file, replacing, write_json
from hornet.errors import UserError
from hornet.shards.index import RECORD, Records, ShardIndex
from hornet.shards.indexing.folder import TarFolder, open_tar_folder, scan_tars
from hornet.shards.indexing.on_demand import find_home, locked
from hornet.shards.indexing.tar_list import Tars, is_tar_list, list_tars
from hornet.shards.label_space import number_classes
from hornet.shards.manifest import Split
from hornet.shards.remote.files import RemoteConfig
from hornet.shards.shard_set import ShardSet, check_sizes, open_index, open_shards
from hornet.shards.whole_index import index_whole_samples
from hornet.world import ALONE, World

WHOLE_INDEX_VERSION = 1
"""Raised when the same tars would give other records."""


@dataclass(frozen=True, kw_only=True)
class WholeSet:
    """Samples with all their members."""

    shards: ShardSet
    """Its records are of whole samples: first header to the end of the last member."""
    images: Records | None
    """Those of the images, if the tars are a set with a manifest: sample for sample the same."""


def open_whole_set(
    place: Tars,
    *,
    split_name: str = "train",
    index: Path | str | None = None,
    checksums: bool = False,
    remote: RemoteConfig | None = None,
    world: World = ALONE,
) -> WholeSet:
    """Open tars by a pattern (see `list_tars`), or a split of the set in a folder or at a URL.

    The first time headers are read, with `checksums` every byte, and the index is kept in the folder `index` (None:
    ~/.cache/hornet/indexes). Other processes of the node wait for it. Raises UserError, also if a tar's size is not
    that of its index.
    """
    remote = remote or RemoteConfig()
    home = find_home(index)
    if is_tar_list(place):
        tars = list_tars(place)
        folder, shards, images = tars.folder, tars.shards, None
    else:
        assert isinstance(place, Path | str)
        images = open_shards(place, split_name, remote=remote, world=world)
        folder, shards = open_tar_folder(images.place), images.split.shards
    name = _name_index(folder, shards, images, checksums=checksums)
    made = home / f"{name}.json"
    if not made.exists():  # else perhaps by somebody else, whose folder may only be read
        with locked(home, name):
            if not made.exists():
                _write(home, name, folder, shards, images, checksums=checksums)
    opened = _open(home, name, folder, remote)
    if folder.remote is None and images is None:
        check_sizes(Path(folder.place), opened.split, world, remedy=f"remove {home / name}.json")
    return WholeSet(shards=opened, images=None if images is None else images.records)


def _name_index(folder: TarFolder, shards: Sequence[str], images: ShardSet | None, *, checksums: bool) -> str:
    known = "" if images is None else images.fingerprint
    parts = [WHOLE_INDEX_VERSION, [folder.locate(shard) for shard in shards], known, checksums]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]


def _write(
    home: Path, name: str, folder: TarFolder, shards: Sequence[str], images: ShardSet | None, *, checksums: bool
) -> None:
    scan = partial(index_whole_samples, checksums=checksums)
    found = scan_tars(folder, shards, scan, title="index", whole=checksums, num_workers=None)
    kept = [part.records for part in found] if images is None else _choose(folder, found, images)
    path = home / f"{name}.npy"
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.concatenate(kept))
    about = {
        "made_from": folder.place,
        "filenames": list(shards),
        "shard_lengths": [len(records) for records in kept],
        "shard_bytes": [part.num_bytes for part in found],
        "shard_sha256": [part.sha256 for part in found],
        "index_sha256": hash_file(path),
        "fingerprint": _fingerprint(shards, kept) if images is None else images.fingerprint,
    }
    write_json(home / f"{name}.json", about)  # last: what is named here is whole


def _fingerprint(shards: Sequence[str], kept: Sequence[Records]) -> str:
    """Return 64 hex digits of where the samples stand; whether their checksums are known does not count."""
    names = [Path(shard).name for shard in shards]
    places = [hashlib.sha256(records[["offset", "span"]].tobytes()).hexdigest() for records in kept]
    return hashlib.sha256(json.dumps([names, places]).encode()).hexdigest()


def _choose(folder: TarFolder, found: Sequence[ShardIndex], images: ShardSet) -> list[Records]:
    """Return of each tar the whole samples of the images that the set's own index has, in its order."""
    chosen = []
    for shard, part in enumerate(found):
        wanted = images.records[images.starts[shard] : images.starts[shard + 1]]
        offsets, wholes = wanted["offset"], part.records
        numbers = np.searchsorted(wholes["offset"], offsets, side="right") - 1
        ends = wholes["offset"][numbers] + wholes["span"][numbers]
        outside = (numbers < 0) | (offsets + wanted["span"] > ends)
        if outside.any() or len(np.unique(numbers)) < len(numbers):
            raise UserError(
                f"{folder.locate(images.split.shards[shard])}: its samples are not where the set's index says; copy "
                "the tar again, or index the set anew"
            )
        records = np.empty(len(wanted), RECORD)
        for column in ("offset", "span", "crc"):
            records[column] = wholes[column][numbers]
        records["label"] = wanted["label"]
        chosen.append(records)
    return chosen


def _open(home: Path, name: str, folder: TarFolder, remote: RemoteConfig) -> ShardSet:
    about = _read_about(home / f"{name}.json")
    split = Split(
        name="train",
        shard_folder=folder.place,
        shards=tuple(about["filenames"]),
        shard_lengths=tuple(about["shard_lengths"]),
        shard_bytes=tuple(about["shard_bytes"]),
        shard_sha256=tuple(about["shard_sha256"]),
        index=f"{name}.npy",
        index_sha256=about["index_sha256"],
        class_counts=(),
    )
    return ShardSet(
        place=folder.place.rstrip("/"),
        name=name,
        split=split,
        label_space=number_classes(1),
        fingerprint=about["fingerprint"],
        records=open_index(home / split.index, split),
        starts=np.concatenate([[0], np.cumsum(split.shard_lengths)]).astype(np.int64),
        remote=remote if folder.remote is not None else None,
    )


def _read_about(path: Path) -> Mapping[str, Any]:
    try:
        about: Mapping[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove it, and the tars are indexed anew") from error
    return about

"""A split whose index, labels and files were checked, local or at a URL. Not here: reading it (reader.py)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hornet.durable import hash_file
from hornet.errors import UserError
from hornet.shards.index import RECORD, Records
from hornet.shards.indexing.tar_list import Tars, is_tar_list
from hornet.shards.label_space import LabelSpace
from hornet.shards.manifest import INDEX_COMMAND, Manifest, Split, fingerprint_split, is_url, read_manifest
from hornet.shards.remote.files import RemoteConfig
from hornet.shards.remote.remote_set import fetch_set
from hornet.world import ALONE, World


@dataclass(frozen=True, kw_only=True)
class ShardSet:
    """A split whose files were found to be those of its manifest."""

    place: str
    """Folder of the tars, or its URL."""
    split: Split
    """As the manifest describes it."""
    label_space: LabelSpace
    """Class names in the order of the set's labels."""
    name: str
    """What the set is called, by its manifest."""
    fingerprint: str
    """See `fingerprint_split`: for run records and checks on resume."""
    records: Records
    """The index, one record a sample, memory-mapped."""
    starts: np.ndarray[tuple[int], np.dtype[np.int64]]
    """(num_shards + 1,) number of each shard's first sample, and the number of samples at the end."""
    remote: RemoteConfig | None
    """How the tars are read; None if they are local."""

    @property
    def num_samples(self) -> int:
        """How many samples the split has."""
        return len(self.records)

    def locate(self, shard: int) -> str:
        """Return the path or URL of a tar."""
        return f"{self.place}/{self.split.shards[shard]}"

    def find_file(self, shard: int) -> Path:
        """Return the path of a tar; raises UserError if it is remote."""
        if self.remote is not None:
            raise UserError(f"{self.locate(shard)}: is remote, and this needs the tar; copy the tars to a folder")
        return Path(self.locate(shard))

    def shard_of(self, sample: int) -> int:
        """Return the number of the shard that holds a sample."""
        return int(np.searchsorted(self.starts, sample, side="right")) - 1

    def stem_of(self, sample: int) -> str:
        """Return the first half of a sample's key."""
        return shard_stem(self.split.shards[self.shard_of(sample)])


def open_shards(
    place: Tars,
    split_name: str,
    *,
    remote: RemoteConfig | None = None,
    world: World = ALONE,
    index: Path | str | None = None,
) -> ShardSet:
    """Open a split of the set in a folder or at the URL of one, after checking its index, labels, and tars' sizes.

    `place` may also name tars, by a pattern with braces or a list: the first time they are indexed, by one process of
    the node, and the index stays in the folder `index` (None: ~/.cache/hornet/indexes), which is of no use to a set.

    `remote` says how to read what is remote. Sizes of remote tars are not asked for; reading notices other ones. Of the
    ranks of a node each asks for the sizes of its part of the tars, so an error of one is to be shared with all.
    Raises UserError, naming the file, what was found and what was recorded.
    """
    remote = remote or RemoteConfig()
    remedy = f"run `{INDEX_COMMAND}`"
    if is_tar_list(place):
        from hornet.shards.indexing.on_demand import describe_tars  # it needs this module

        place = describe_tars(place, split_name, index=index)
        remedy = f"remove {place}"
    elif index is not None:
        raise UserError(
            f"index: is a folder for the index of tars that are named by a pattern, and {place} is the folder of a "
            "set, which has its own; leave it out"
        )
    assert isinstance(place, Path | str)
    folder = fetch_set(str(place), split_name, remote) if is_url(str(place)) else Path(place)
    manifest = read_manifest(folder)
    split = manifest.split(split_name)
    if split.shard_folder.startswith("pipe:"):
        raise UserError(
            f"{manifest.path}: the tars of split {split_name!r} are at {split.shard_folder!r}, and no set may name a "
            "command to run; give their URL as shard_folder and the command as data.remote.command"
        )
    base = str(place).rstrip("/") if is_url(str(place)) else str(folder)
    tars = split.shard_folder if is_url(split.shard_folder) else _join(base, split.shard_folder)
    if not is_url(tars):
        check_sizes(Path(tars), split, world, remedy=remedy)
    records = open_index(folder / split.index, split)
    starts = np.concatenate([[0], np.cumsum(split.shard_lengths)]).astype(np.int64)
    shards = ShardSet(
        place=tars.rstrip("/"),
        name=manifest.name,
        split=split,
        label_space=manifest.label_space,
        fingerprint=fingerprint_split(split, manifest.label_space),
        records=records,
        starts=starts,
        remote=remote if is_url(tars) else None,
    )
    _check_labels(shards, manifest)
    return shards


def _join(base: str, folder: str) -> str:
    """Return a manifest's `shard_folder` as seen from where the manifest is."""
    if is_url(base):
        return base if folder in (".", "") else f"{base}/{folder}"
    return str(Path(base) / folder)


def shard_stem(shard: str) -> str:
    """Return a tar's file name without folders and `.tar`: the first half of its samples' keys."""
    return Path(shard).name.removesuffix(".tar")


def check_sizes(folder: Path, split: Split, world: World, *, remedy: str) -> None:
    """Check this rank's part: 14,200 tars times 512 ranks would be 7 million questions to the disk's server.

    Raises UserError; `remedy` says what to do if the new content is wanted.
    """
    mine = slice(world.local_rank, None, world.num_local_ranks)
    for shard, recorded in zip(split.shards[mine], split.shard_bytes[mine], strict=True):
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
                f"(or {remedy} if the new content is wanted)"
            )


def open_index(path: Path, split: Split) -> Records:
    """Map a split's index into memory; raises UserError if it does not belong to the manifest."""
    try:
        found = hash_file(path)
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
    if labels.min() >= 0 and labels.max() < num_classes:
        return
    outside = (labels < 0) | (labels >= num_classes)
    sample = int(outside.argmax())
    raise UserError(
        f"{manifest.path}: {int(outside.sum())} samples of split {shards.split.name!r} have labels outside the label "
        f"space {shards.label_space.name!r} of {num_classes} classes (0 to {num_classes - 1}); the first is label "
        f"{int(labels[sample])} in {shards.split.shards[shards.shard_of(sample)]} at byte "
        f"{int(shards.records['offset'][sample])}; index the shards with the right `--classes`"
    )

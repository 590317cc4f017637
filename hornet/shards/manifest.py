"""The manifest `_info.json`: a set's splits, shards, checksums and label space, in timm's layout and extended.

timm reads of a split `name`, `filenames`, `shard_lengths`, `num_samples`; ours are `shard_bytes`, `shard_sha256`,
`index`, `index_sha256`, `shard_folder`, `class_counts`, `origin`, and at the top `label_space` and the format's number
(hornet/formats.py).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hornet.durable import write_json
from hornet.errors import UserError
from hornet.formats import SHARDS
from hornet.shards.label_space import LabelSpace, read_label_space

MANIFEST_NAME = "_info.json"

INDEX_COMMAND = "python launch/shards.py index"
VIEW_COMMAND = "subset"


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split: everything the order of its samples depends on, and where they are."""

    name: str
    """`train`, `validation`, ..."""
    shard_folder: str
    """Where the tars are: relative to the manifest, absolute, or a URL."""
    shards: tuple[str, ...]
    """The tars' names relative to `shard_folder`, in the order of the index."""
    shard_lengths: tuple[int, ...]
    """Samples in each."""
    shard_bytes: tuple[int, ...]
    """Size of each tar in bytes."""
    shard_sha256: tuple[str | None, ...]
    """Checksum of each, hex; None where the tar was indexed without reading its payload."""
    index: str
    """The index's file name, beside the manifest."""
    index_sha256: str
    """Checksum of the index file, hex."""
    class_counts: tuple[int, ...]
    """Samples of each class of the label space."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """How the split was made: the command, what it was given, what it dropped. For people, but for `is_view`."""
    label_key: str | None = None
    """Key of the .json members that the labels come from, timm's `alt_label`; None for the .cls members."""

    @property
    def num_samples(self) -> int:
        """Samples in the split."""
        return sum(self.shard_lengths)

    @property
    def is_view(self) -> bool:
        """Whether its samples were chosen from a larger split, whose tars hold more than them."""
        return self.origin.get("command") == VIEW_COMMAND

    def to_json(self) -> dict[str, Any]:
        """Return the form the manifest holds."""
        return {
            "name": self.name,
            "filenames": list(self.shards),
            "shard_lengths": list(self.shard_lengths),
            "num_samples": self.num_samples,
            "alt_label": self.label_key,
            "shard_folder": self.shard_folder,
            "shard_bytes": list(self.shard_bytes),
            "shard_sha256": list(self.shard_sha256),
            "index": self.index,
            "index_sha256": self.index_sha256,
            "class_counts": list(self.class_counts),
            "origin": dict(self.origin),
        }


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One set of shards."""

    path: Path
    """The file, `_info.json`, which the paths in it are relative to."""
    name: str
    """What the set is called; its tars' names begin with it where they were built here."""
    label_space: LabelSpace
    """What the labels of all its splits mean."""
    splits: Mapping[str, Split]
    """The splits that have an index, by name."""
    unindexed: Mapping[str, Any] = field(default_factory=dict)
    """Splits in timm's layout that have no index yet, as read."""

    def split(self, name: str) -> Split:
        """Return a split by name; raises UserError if it is not there or has no index."""
        if name in self.splits:
            return self.splits[name]
        if name in self.unindexed:
            raise UserError(f"{self.path}: split {name!r} has no index; run `{INDEX_COMMAND} {self.path.parent}`")
        known = ", ".join(sorted(self.splits)) or "none"
        raise UserError(f"{self.path}: there is no split {name!r}; the set has: {known}")

    def with_split(self, split: Split) -> Manifest:
        """Return this manifest with `split` added, or in place of the one of its name."""
        unindexed = {name: value for name, value in self.unindexed.items() if name != split.name}
        return replace(self, splits={**self.splits, split.name: split}, unindexed=unindexed)


def is_url(place: str) -> bool:
    """Whether a place of tars is remote: http://, s3://, ..."""
    return "://" in place


def fingerprint_split(split: Split, label_space: LabelSpace) -> str:
    """Return 64 hex digits that change if a shard's name, length or samples, or a label's meaning, change.

    Where the shards lie does not count: a copy on another disk is the same split.
    """
    names = [Path(shard).name for shard in split.shards]
    parts = [names, list(split.shard_lengths), split.index_sha256, label_space.fingerprint]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def write_manifest(manifest: Manifest) -> None:
    """Write (or atomically replace) the manifest's file."""
    splits = {name: split.to_json() for name, split in manifest.splits.items()} | dict(manifest.unindexed)
    value = {"name": manifest.name, **SHARDS.header, "label_space": manifest.label_space.to_json(), "splits": splits}
    write_json(manifest.path, value)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a folder and check its form, not its files.

    Raises UserError naming the file and the key.
    """
    path = folder / MANIFEST_NAME
    value = read_info(path)
    if "label_space" not in value:
        raise UserError(f"{path}: has no label_space, so its shards have no index yet; run `{INDEX_COMMAND} {folder}`")
    splits, unindexed = {}, {}
    for name, content in value["splits"].items():
        if "index_sha256" in content:
            splits[name] = _read_split(content, name=name, path=path)
        else:
            unindexed[name] = content
    return Manifest(
        path=path,
        name=str(value.get("name", folder.name)),
        label_space=read_label_space(value["label_space"], source=path),
        splits=splits,
        unindexed=unindexed,
    )


def read_info(path: Path) -> dict[str, Any]:
    """Read an `_info.json`, ours or timm's, with its `splits`; raises UserError if there is none or it is damaged."""
    try:
        return parse_info(path.read_bytes(), source=str(path))
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing: {path.parent} is not a folder of shards; make them with "
            f"`python launch/shards.py build`, or describe existing tars with `{INDEX_COMMAND}`"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def parse_info(content: bytes, *, source: str) -> dict[str, Any]:
    """As `read_info`, for bytes from anywhere; `source` names them in messages."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source}: is not readable as JSON ({error})") from error
    splits = value.get("splits") if isinstance(value, dict) else None
    if not isinstance(splits, dict) or not all(isinstance(content, dict) for content in splits.values()):
        raise UserError(f"{source}: must hold `splits`, from names to splits, as timm's _info.json does")
    SHARDS.read_number(value, source=source)
    return dict(value)


def read_listing(split: Mapping[str, Any], *, source: str) -> tuple[list[str], list[int]]:
    """Return the tars that a split lists, and how many samples each is said to hold (as far as it says).

    `source` is the file, for messages. Raises UserError if they are no lists.
    """
    names, lengths = split.get("filenames") or [], split.get("shard_lengths") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{source}: filenames of split {split.get('name', '')!r} must be a list of names of tars")
    if not isinstance(lengths, list) or not all(type(length) is int for length in lengths):
        raise UserError(f"{source}: shard_lengths of split {split.get('name', '')!r} must be a list of whole numbers")
    return names, lengths


LISTED_TYPES: Mapping[str, tuple[type, ...]] = {
    "filenames": (str,),
    "shard_lengths": (int,),
    "shard_bytes": (int,),
    "shard_sha256": (str, type(None)),
}


def _find_wrong(values: list[Any], types: tuple[type, ...]) -> Any:
    return next(str(value)[:60] for value in values if not isinstance(value, types))


def _read_split(content: Mapping[str, Any], *, name: str, path: Path) -> Split:
    where = f"{path}: splits.{name}"
    lists = {key: content.get(key) for key in ("filenames", "shard_lengths", "shard_bytes", "shard_sha256")}
    for key, value in lists.items():
        if not isinstance(value, list) or len(value) != len(lists["filenames"] or []):
            raise UserError(f"{where}.{key}: must be a list with an entry for each of filenames")
        if not all(isinstance(item, LISTED_TYPES[key]) for item in value):
            raise UserError(
                f"{where}.{key}: holds {_find_wrong(value, LISTED_TYPES[key])!r}, which is none of its values"
            )
    if not lists["filenames"]:
        raise UserError(f"{where}.filenames: is empty; a split needs at least one shard")
    split = Split(
        name=name,
        shard_folder=str(content.get("shard_folder", ".")),
        shards=tuple(lists["filenames"]),
        shard_lengths=tuple(lists["shard_lengths"] or ()),
        shard_bytes=tuple(lists["shard_bytes"] or ()),
        shard_sha256=tuple(lists["shard_sha256"] or ()),
        index=str(content.get("index", "")),
        index_sha256=str(content["index_sha256"]),
        class_counts=tuple(content.get("class_counts") or ()),
        origin=content.get("origin") or {},
        label_key=content.get("alt_label"),
    )
    repeated = [shard for shard, count in Counter(Path(shard).name for shard in split.shards).items() if count > 1]
    if repeated:
        raise UserError(f"{where}.filenames: {repeated[0]} stands twice; a sample's key holds its shard's file name")
    if not all(isinstance(length, int) and length > 0 for length in split.shard_lengths):
        raise UserError(f"{where}.shard_lengths: must be positive whole numbers")
    if content.get("num_samples") != split.num_samples:
        raise UserError(
            f"{where}.num_samples: is {content.get('num_samples')}, but shard_lengths sum to {split.num_samples}"
        )
    return split

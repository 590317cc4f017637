"""Tars made by others (timm's -wds sets, webdataset's ShardWriter) -> index and manifest; the tars are only read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hornet.data.index import ShardIndex, index_tar
from hornet.data.label_space import LabelSpace, number_classes, read_class_list, read_label_space
from hornet.data.manifest import MANIFEST_NAME, Manifest, read_info
from hornet.data.prepare.split_writing import add_split, open_set
from hornet.errors import UserError


@dataclass(frozen=True, kw_only=True)
class IndexPlan:
    """What to index."""

    folder: Path
    """Where the tars are, with timm's _info.json or without."""
    output: Path
    """Where index and manifest go: the same folder, or another if the tars' folder is read-only."""
    split: str | None
    """Which split; None for all that an _info.json lists, or `train` where there is none."""
    pattern: str
    """Which tars make the split, if no _info.json lists it: a shell pattern."""
    classes: Path | None
    """Text file with one class name a line; None to keep the manifest's label space or number the classes."""
    name: str | None
    """The set's name; None for that of _info.json or the folder's."""


@dataclass(frozen=True, kw_only=True)
class IndexReport:
    """What was indexed."""

    manifest: Manifest
    """As written."""
    left_out: tuple[str, ...]
    """Splits of the _info.json that were left out: they take labels from elsewhere than the .cls members."""


def index_folder(plan: IndexPlan) -> IndexReport:
    """Read every byte of the tars once, check them strictly, and describe them.

    Raises UserError if a tar is damaged, cut or incomplete, or does not hold what the _info.json says.
    """
    info_path = plan.folder / MANIFEST_NAME
    info = read_info(info_path) if info_path.exists() else {"splits": {}}
    chosen, left_out = _choose_splits(plan, info)
    found = {name: _index_shards(plan.folder, shards, name=name) for name, shards in chosen.items()}
    for name in chosen:
        _check_lengths(plan.folder, info["splits"].get(name, {}), chosen[name], found[name])
    label_space = _choose_label_space(plan, info, [index for indexes in found.values() for index in indexes])
    manifest = _start_manifest(plan, info, label_space, replaced=chosen.keys())
    shard_folder = "." if plan.output.resolve() == plan.folder.resolve() else str(plan.folder.resolve())
    plan.output.mkdir(parents=True, exist_ok=True)
    for name, shards in chosen.items():
        manifest = add_split(
            manifest,
            split=name,
            shard_folder=shard_folder,
            shards=shards,
            indexes=found[name],
            origin={"command": "index", "source": str(plan.folder)},
        )
    return IndexReport(manifest=manifest, left_out=left_out)


def _choose_splits(plan: IndexPlan, info: Mapping[str, Any]) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    listed = {name: split for name, split in info["splits"].items() if plan.split in (None, name)}
    foreign = tuple(name for name, split in listed.items() if split.get("alt_label"))
    if plan.split in foreign:
        raise UserError(
            f"{plan.folder / MANIFEST_NAME}: split {plan.split!r} takes its labels from "
            f"{listed[plan.split]['alt_label']!r} in the .json members, which is not supported; "
            "use a split with .cls labels"
        )
    chosen = {name: [str(shard) for shard in split.get("filenames", [])] for name, split in listed.items()}
    chosen = {name: shards for name, shards in chosen.items() if name not in foreign}
    if not listed:
        chosen = {plan.split or "train": sorted(path.name for path in plan.folder.glob(plan.pattern))}
    for name, shards in chosen.items():
        if not shards:
            raise UserError(
                f"{plan.folder}: no tar {plan.pattern!r} for split {name!r}; give the folder that holds them"
            )
    return chosen, foreign


def _index_shards(folder: Path, shards: Sequence[str], *, name: str) -> list[ShardIndex]:
    return [index_tar(folder / shard) for shard in tqdm(shards, desc=name, unit=" shards", disable=None)]


def _check_lengths(
    folder: Path, split: Mapping[str, Any], shards: Sequence[str], indexes: Sequence[ShardIndex]
) -> None:
    if "index_sha256" in split:  # our own entry, which this replaces
        return
    for shard, index, listed in zip(shards, indexes, split.get("shard_lengths", []), strict=False):
        if len(index.records) != listed:
            raise UserError(
                f"{folder / shard}: holds {len(index.records)} samples, {MANIFEST_NAME} says {listed}; "
                "copy the tar again"
            )


def _start_manifest(
    plan: IndexPlan, info: Mapping[str, Any], label_space: LabelSpace, *, replaced: Set[str]
) -> Manifest:
    """Return the manifest to add splits to: the output's own if splits of it stay, or timm's, or a new one."""
    name = plan.name or str(info.get("name") or plan.folder.resolve().name)
    path = plan.output / MANIFEST_NAME
    there = read_info(path) if path.exists() else {"splits": {}}
    if "label_space" in there and not there["splits"].keys() <= replaced:
        return open_set(plan.output, name=name, label_space=label_space)
    unindexed = {name: split for name, split in info["splits"].items() if "index_sha256" not in split}
    return Manifest(path=path, name=name, label_space=label_space, splits={}, unindexed=unindexed)


def _choose_label_space(plan: IndexPlan, info: Mapping[str, Any], indexes: Sequence[ShardIndex]) -> LabelSpace:
    if plan.classes is not None:
        return read_class_list(plan.classes)
    for folder in (plan.output, plan.folder):
        path = folder / MANIFEST_NAME
        there = read_info(path) if path.exists() else {}
        if "label_space" in there:
            return read_label_space(there["label_space"], source=path)
    return number_classes(1 + max(0, *(int(index.records["label"].max()) for index in indexes)))

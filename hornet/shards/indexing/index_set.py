"""Tars made by others (timm's -wds sets, webdataset's ShardWriter) -> index and manifest; the tars are only read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hornet.errors import UserError
from hornet.shards.build.sources.names import find_splits
from hornet.shards.imagenet import find_label_space
from hornet.shards.index import ShardIndex
from hornet.shards.indexing.folder import TarFolder, index_tars, open_tar_folder
from hornet.shards.indexing.report import IndexReport, write_incomplete
from hornet.shards.label_space import LabelSpace, number_classes, read_label_space
from hornet.shards.manifest import MANIFEST_NAME, Manifest, is_url, read_info, read_listing, write_manifest
from hornet.shards.sample_parts import Incomplete, PassedMembers, SampleRule
from hornet.shards.split_writing import open_set, put_split

DEFAULT_PATTERN = "*.tar"


@dataclass(frozen=True, kw_only=True)
class IndexPlan:
    """Which tars become a set, by which labels, and where index and manifest go."""

    folder: Path | str
    """Where the tars are, with timm's _info.json or without: a folder, or the URL of one."""
    output: Path | None
    """Where index and manifest go; None for the same folder, if it is local and may be written to."""
    split: str | None
    """Which split; None for all that an _info.json lists and that fit together, or `train` where there is none."""
    pattern: str | Sequence[str]
    """Which tars make the split, if no _info.json lists it: a shell pattern, or several; braces, and folders too."""
    classes: Path | str | None
    """A known label space or a file (see `find_label_space`); None to keep the manifest's or number the classes."""
    name: str | None
    """The set's name; None for that of _info.json or the folder's."""
    label_key: str | None = None
    """Key of the .json members that holds the labels; None for what _info.json says, else the .cls members."""
    incomplete: Incomplete = "refuse"
    """What becomes of samples that lack their label or image, or whose image has 0 bytes."""
    checksums: bool = False
    """Whether to read every byte, for the checksums of tars and images."""
    num_workers: int | None = 1
    """Tars at once; None for one a core, or 32 remote ones."""

    @property
    def home(self) -> Path:
        """Folder of index and manifest; raises UserError if there is none."""
        if self.output is None and is_url(str(self.folder)):
            raise UserError(f"{self.folder}: is remote; give a local folder for index and manifest with --output")
        return Path(self.folder) if self.output is None else self.output


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """A split to be indexed."""

    shards: Sequence[str]
    label_key: str | None
    listed: Mapping[str, Any]
    """Its entry in _info.json; empty if there is none."""


def index_folder(plan: IndexPlan) -> IndexReport:
    """Index the tars, check them strictly, and describe them.

    Raises UserError if a tar is damaged, cut or incomplete, or does not hold what the _info.json says.
    """
    home = plan.home
    given = None if plan.classes is None else find_label_space(str(plan.classes))  # before hours of reading
    folder = open_tar_folder(plan.folder)
    info = folder.read_info()
    chosen, left_out = _choose_splits(plan, folder, info)
    _check_neighbours(plan, chosen)
    known = _find_label_space(plan, info, chosen) if given is None else given
    found = {
        name: index_tars(
            folder,
            split.shards,
            title=name,
            checksums=plan.checksums,
            rule=SampleRule(
                label_key=split.label_key,
                label_names=None if known is None or known.is_numbered else known.labels,
                num_classes=None if known is None else len(known),
                incomplete=plan.incomplete,
            ),
            num_workers=plan.num_workers,
        )
        for name, split in chosen.items()
    }
    for name, split in chosen.items():
        _check_lengths(folder, split, found[name])
    indexes = [index for indexes in found.values() for index in indexes]
    largest = max((int(index.records["label"].max()) for index in indexes if len(index.records)), default=0)
    manifest = _start_manifest(plan, folder, info, known or number_classes(1 + max(0, largest)), replaced=chosen.keys())
    passed = PassedMembers()
    for index in indexes:
        passed.merge(index.passed)
    try:
        home.mkdir(parents=True, exist_ok=True)
        for name, split in chosen.items():
            manifest = _add_split(plan, folder, manifest, name, split, found[name])
        notes = [write_incomplete(home, name, chosen[name].shards, found[name]) for name in chosen]
    except OSError as error:
        raise UserError(
            f"{home}: cannot be written to ({error.strerror}); give another folder with --output"
        ) from error
    taken = [shard for entry in info["splits"].values() for shard in map(str, entry.get("filenames") or [])]
    return IndexReport(
        manifest=manifest,
        left_out=left_out,
        passed=passed,
        num_incomplete=sum(len(index.incomplete) for index in indexes),
        notes=tuple(path for path in notes if path is not None),
        not_taken=folder.list_similar([*taken, *(shard for split in chosen.values() for shard in split.shards)]),
    )


def _choose_splits(
    plan: IndexPlan, folder: TarFolder, info: Mapping[str, Any]
) -> tuple[dict[str, _Chosen], dict[str, str]]:
    """Return the splits to be indexed, whose labels all come from one place, and those left out for that."""
    listed = {name: split for name, split in info["splits"].items() if plan.split in (None, name)}
    if plan.pattern != DEFAULT_PATTERN:
        if any("index_sha256" not in split for split in listed.values()):
            raise UserError(
                f"{folder.locate(MANIFEST_NAME)}: lists the tars of its splits, so {_quote(plan.pattern)} would have "
                "no effect; give the folder alone, and --split for one of its splits"
            )
        listed = {}  # our own entry, which this replaces by other tars
    listings = {name: read_listing(split, source=folder.locate(MANIFEST_NAME)) for name, split in listed.items()}
    keys = {name: plan.label_key or split.get("alt_label") for name, split in listed.items()}
    if None not in keys.values() and len(set(keys.values())) > 1:
        raise UserError(
            f"{folder.locate(MANIFEST_NAME)}: its splits take their labels from different keys of the .json members "
            f"({', '.join(f'{name}: {key}' for name, key in keys.items())}); index each into an --output of its own, "
            "with --split"
        )
    foreign = {name: key for name, key in keys.items() if key is not None and None in keys.values()}
    chosen = {
        name: _Chosen(shards=listings[name][0], label_key=keys[name], listed=split)
        for name, split in listed.items()
        if name not in foreign
    }
    if not listed:
        shards = folder.list(plan.pattern)
        chosen = {_name_split(plan, folder, shards): _Chosen(shards=shards, label_key=plan.label_key, listed={})}
    for name, split in chosen.items():
        if not split.shards:
            similar = ", ".join(folder.list_similar(())[:3])
            holds = f"; it holds {similar}" if similar else ""
            way = (
                "packed tars must be unpacked, and tars in folders or called otherwise named with --pattern"
                if similar
                else "give the folder that holds them"
            )
            raise UserError(f"{folder.place}: no tar {_quote(plan.pattern)} for split {name!r}{holds}; {way}")
    return chosen, foreign


def _name_split(plan: IndexPlan, folder: TarFolder, shards: Sequence[str]) -> str:
    """Return the split that tars without a list belong to; raises UserError if their names speak of others."""
    words = find_splits(shards)
    if len(words) > 1:
        raise UserError(
            f"{folder.place}: {_quote(plan.pattern)} takes in tars of several splits ({', '.join(words)}); index each "
            f"by itself, with --split {words[0]} --pattern '*{words[0]}*.tar'"
        )
    if plan.split is None and words not in ([], ["train"]):
        raise UserError(
            f"{folder.place}: by their names these are tars of split {words[0]!r}; say --split {words[0]} (or "
            "--split train, if they are to be trained on)"
        )
    return plan.split or "train"


def _quote(pattern: str | Sequence[str]) -> str:
    return repr(pattern) if isinstance(pattern, str) else " ".join(map(repr, pattern))


def _check_neighbours(plan: IndexPlan, chosen: Mapping[str, _Chosen]) -> None:
    """Refuse to put splits whose labels come from different places under one label space, unless it is given."""
    path = plan.home / MANIFEST_NAME
    there = read_info(path)["splits"] if path.exists() and plan.classes is None else {}
    for name, split in chosen.items():
        for other, entry in there.items():
            if other in chosen or "index_sha256" not in entry or entry.get("alt_label") == split.label_key:
                continue
            raise UserError(
                f"{path}: its split {other!r} has labels from {_describe_source(entry.get('alt_label'))}, split "
                f"{name!r} from {_describe_source(split.label_key)}: as a rule these are different classes, and a set "
                "has one label space; give another --output (or --classes, if both mean the same)"
            )


def _describe_source(label_key: str | None) -> str:
    return "the .cls members" if label_key is None else f"{label_key!r} in the .json members"


def _check_lengths(folder: TarFolder, split: _Chosen, indexes: Sequence[ShardIndex]) -> None:
    if "index_sha256" in split.listed:  # our own entry, which this replaces
        return
    for shard, index, listed in zip(
        split.shards, indexes, read_listing(split.listed, source=MANIFEST_NAME)[1], strict=False
    ):
        # Where labels of -1 skip samples, lists may count them or not.
        num_whole = len(index.records) + index.num_skipped
        if listed not in (len(index.records), num_whole, num_whole + len(index.incomplete)):
            raise UserError(
                f"{folder.locate(shard)}: holds {len(index.records)} samples, {MANIFEST_NAME} says {listed}; "
                "copy the tar again"
            )


def _start_manifest(
    plan: IndexPlan, folder: TarFolder, info: Mapping[str, Any], label_space: LabelSpace, *, replaced: Set[str]
) -> Manifest:
    """Return the manifest to add splits to: the output's own if splits of it stay, or timm's, or a new one."""
    name = plan.name or str(info.get("name") or folder.name)
    path = plan.home / MANIFEST_NAME
    there = read_info(path) if path.exists() else {"splits": {}}
    if "label_space" in there and not there["splits"].keys() <= replaced:
        return open_set(plan.home, name=name, label_space=label_space)
    unindexed = {name: split for name, split in info["splits"].items() if "index_sha256" not in split}
    return Manifest(path=path, name=name, label_space=label_space, splits={}, unindexed=unindexed)


def _find_label_space(plan: IndexPlan, info: Mapping[str, Any], chosen: Mapping[str, _Chosen]) -> LabelSpace | None:
    """Return the label space of a set that is there; None if the classes are to be numbered."""
    path = plan.home / MANIFEST_NAME
    keys = {split.label_key for split in chosen.values()}
    for source, there in ((path, read_info(path) if path.exists() else {}), (Path(str(plan.folder)), info)):
        described = [split for split in there.get("splits", {}).values() if "index_sha256" in split]
        if "label_space" in there and {split.get("alt_label") for split in described} <= keys:
            return read_label_space(there["label_space"], source=source)
    return None


def _add_split(
    plan: IndexPlan, folder: TarFolder, manifest: Manifest, name: str, split: _Chosen, indexes: Sequence[ShardIndex]
) -> Manifest:
    """Put a split into the manifest on disk; tars of which every sample is skipped are not listed in it."""
    kept = [(shard, index) for shard, index in zip(split.shards, indexes, strict=True) if len(index.records)]
    if not kept:
        if any(index.incomplete for index in indexes):
            raise UserError(
                f"{folder.place}: no sample of split {name!r} is whole; the first {indexes[0].incomplete[:1]}"
            )
        raise UserError(f"{folder.place}: no sample of split {name!r} has a label in {split.label_key!r}; all are -1")
    manifest = put_split(
        manifest,
        split=name,
        shard_folder=folder.locate_from(plan.home),
        shards=[shard for shard, _ in kept],
        indexes=[index for _, index in kept],
        origin={
            "command": "index",
            "source": folder.place,
            "labels": "cls" if split.label_key is None else f"json:{split.label_key}",
            "num_skipped": sum(index.num_skipped for index in indexes),
            **_describe_rest(plan, indexes),
        },
    )
    manifest = manifest.with_split(replace(manifest.splits[name], label_key=split.label_key))
    write_manifest(manifest)
    return manifest


def _describe_rest(plan: IndexPlan, indexes: Sequence[ShardIndex]) -> dict[str, Any]:
    """Return what the manifest says of members and samples that are not in the index."""
    passed = PassedMembers()
    for index in indexes:
        passed.merge(index.passed)
    described: dict[str, Any] = {"passed_over": passed.counts} if passed.counts else {}
    if plan.incomplete == "skip":
        described |= {"incomplete": "skip", "num_incomplete": sum(len(index.incomplete) for index in indexes)}
    return described

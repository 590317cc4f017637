"""Layout `webdataset`: tars of samples (.jpg + .cls or .json), alone or as a set with an `_info.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hornet.errors import UserError
from hornet.shards.build.keys import make_plain
from hornet.shards.build.source import Entry, PartListing, SeekableSource
from hornet.shards.build.sources.indexed_set import open_indexed_set
from hornet.shards.build.sources.names import find_splits, mention_packed, split_words
from hornet.shards.index import ShardIndex, index_tar
from hornet.shards.label_space import LabelSpace
from hornet.shards.manifest import MANIFEST_NAME, read_info, read_listing
from hornet.shards.sample_label import read_label_option
from hornet.shards.sample_parts import Incomplete, SampleRule
from hornet.shards.tar import LocalTar, TarStream, read_member

INFO_NAMES = (MANIFEST_NAME, "info.json")  # what timm looks for, in this order


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A part of the source: a tar of samples, as webdataset has them."""

    name: str
    path: Path
    rule: SampleRule
    """Which members are a sample's image and label."""
    classes: tuple[str, ...] | None
    """Names of the labels; None to number them."""
    num_samples: int | None = None
    """How many an _info.json promises."""

    def list(self) -> PartListing:
        """See Part; raises UserError if the tar is damaged or a label lies outside the classes."""
        index = index_tar(self.path, checksums=False, rule=self.rule)
        num_samples = len(index.records) + index.num_skipped + len(index.incomplete)
        if self.num_samples not in (None, num_samples):
            raise UserError(
                f"{self.path}: holds {num_samples} samples, its _info.json says {self.num_samples}; copy the tar again"
            )
        with LocalTar(self.path, sparsely=True) as tar:
            entries = [self._describe(tar, offset, label) for offset, _, label, _ in index.records.tolist()]
        entries.sort(key=lambda entry: entry.name)
        return PartListing(entries=tuple(entries), remarks=tuple(self._remark(index)))

    def _remark(self, index: ShardIndex) -> Iterator[str]:
        if index.num_skipped:
            yield f"{self.path}: {index.num_skipped} samples without a label were passed over"
        if index.incomplete:
            _, reason = index.incomplete[0]
            yield f"{self.path}: {len(index.incomplete)} samples that are not whole were left out, for one: {reason}"
        if index.passed.counts.keys() - {".json", ".cls"}:
            yield f"{self.path}: other members were passed over: {index.passed.describe()}"

    def _describe(self, tar: LocalTar, offset: int, label: int) -> Entry:
        member = read_member(TarStream(tar, hashed=False, position=offset).read, offset=offset)
        assert member is not None  # it was indexed just now
        return Entry(
            name=member.name,
            class_name=self._name_class(label, member.name),
            offset=member.payload_offset,
            size=member.size,
        )

    def _name_class(self, label: int, name: str) -> str:
        if self.classes is None and label >= 0:
            return f"class_{label:05d}"
        if self.classes is None:
            raise UserError(
                f"{self.path}: {name!r} has label {label}, which names no class; leave such samples "
                "out with `--incomplete skip`, or choose other --labels"
            )
        if not 0 <= label < len(self.classes):
            raise UserError(
                f"{self.path}: {name!r} has label {label}, the label space has {len(self.classes)} classes (0 to "
                f"{len(self.classes) - 1}); choose another with --classes, or other labels with --labels"
            )
        return self.classes[label]


def open_webdataset(
    path: Path,
    *,
    split: str | None,
    labels: str | None,
    label_space: LabelSpace | None,
    incomplete: Incomplete = "refuse",
) -> SeekableSource:
    """Open a folder of tars, or one tar; raises UserError.

    `incomplete` says what becomes of samples without label or image. Of a set with an index of ours, the index and its
    label space count. Else the meaning of the labels is that of
    `label_space`; without it they are numbered.
    """
    label_key = read_label_option(labels)
    info_path = next((path / name for name in INFO_NAMES if (path / name).is_file()), path / MANIFEST_NAME)
    lengths: list[int | None] = []
    if path.is_file():
        if split:
            raise UserError(f"{path}: one tar has no splits; leave --source-split out")
        files = [path]
    elif info_path.exists():
        info = read_info(info_path)
        name = _choose_split(info, split, info_path)
        if "label_space" in info:
            if labels or incomplete != "refuse":
                raise UserError(
                    f"{info_path}: what this set holds stands in its index; leave --labels and --incomplete out"
                )
            return open_indexed_set(path, name)
        chosen = info["splits"][name]
        names, listed = read_listing(chosen, source=str(info_path))
        files = [path / file for file in names]
        if labels is None:
            label_key = chosen.get("alt_label")
        if not chosen.get("alt_label"):
            lengths = list(listed)
    else:
        files = _find_tars(path, split)
    if not files:
        of_split = f" of split {split!r} (NAME-{split}-0000.tar)" if split else ""
        raise UserError(f"{path}: holds no tars{of_split}{mention_packed(path)}")
    classes = None if label_space is None else label_space.classes
    rule = SampleRule(
        label_key=label_key,
        label_names=None if label_space is None else label_space.labels,
        num_classes=None if label_space is None else len(label_space),
        incomplete=incomplete,
        for_build=True,
    )
    lengths += [None] * (len(files) - len(lengths))
    parts = [
        Shard(name=make_plain(file.stem), path=file, rule=rule, classes=classes, num_samples=length)
        for file, length in zip(files, lengths, strict=False)
    ]
    return SeekableSource(parts=tuple(sorted(parts, key=lambda part: part.name)), classes=classes)


def _find_tars(path: Path, split: str | None) -> list[Path]:
    """Return the tars of a folder without a list, those of one split if it has several."""
    files = [file for file in sorted(path.glob("*.tar")) if not file.name.startswith(".")]
    found = find_splits([file.name for file in files])
    if split is None and len(found) > 1:
        raise UserError(f"{path}: choose one of its splits with --source-split: {', '.join(found)}")
    return [file for file in files if split is None or split in {*file.name.split("-"), *split_words(file.name)}]


def _choose_split(info: Mapping[str, Any], split: str | None, path: Path) -> str:
    splits: Mapping[str, Mapping[str, Any]] = info["splits"]
    if split is None and len(splits) == 1:
        return next(iter(splits))
    if split is None or split not in splits:
        raise UserError(f"{path}: choose one of its splits with --source-split: {', '.join(splits)}")
    return split

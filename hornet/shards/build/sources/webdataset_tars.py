"""Layout `webdataset`: tars of samples (.jpg + .cls or .json), alone or as a set with an `_info.json`."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hornet.errors import UserError
from hornet.shards.build.source import Entry, PartListing, SeekableSource
from hornet.shards.build.sources.indexed_set import open_indexed_set
from hornet.shards.build.sources.names import KNOWN_SPLITS
from hornet.shards.index import index_tar
from hornet.shards.label_space import LabelSpace
from hornet.shards.manifest import MANIFEST_NAME, read_info
from hornet.shards.sample_label import read_label_option
from hornet.shards.tar import BLOCK_BYTES, read_member

INFO_NAMES = (MANIFEST_NAME, "info.json")  # what timm looks for, in this order
HEADER_BYTES = 8 * BLOCK_BYTES  # a header with long names before it; more is read if it does not do


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar of samples."""

    name: str
    path: Path
    label_key: str | None
    """Key of the .json member that holds the label; None for the .cls member."""
    classes: tuple[str, ...] | None
    """Names of the labels; None to number them."""
    num_samples: int | None = None
    """How many an _info.json promises."""

    def list(self) -> PartListing:
        """See Part; raises UserError if the tar is damaged or a label lies outside the classes."""
        index = index_tar(self.path, checksums=False, label_key=self.label_key)
        if self.num_samples not in (None, len(index.records) + index.num_skipped):
            raise UserError(
                f"{self.path}: holds {len(index.records) + index.num_skipped} samples, its _info.json says "
                f"{self.num_samples}; copy the tar again"
            )
        entries = []
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for record in index.records.tolist():
                entries.append(self._describe(descriptor, *record[:3]))
        finally:
            os.close(descriptor)
        remarks = [f"{self.path}: {index.num_skipped} samples without a label were passed over"]
        entries.sort(key=lambda entry: entry.name)
        return PartListing(entries=tuple(entries), remarks=tuple(remarks if index.num_skipped else ()))

    def _describe(self, descriptor: int, offset: int, span: int, label: int) -> Entry:
        content = os.pread(descriptor, min(span, HEADER_BYTES), offset)
        if content[156:157] in (b"L", b"x", b"K", b"g"):
            content = os.pread(descriptor, span, offset)
        member = read_member(io.BytesIO(content).read, offset=offset)
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
            raise UserError(f"{self.path}: {name!r} has label {label}, which names no class; choose other --labels")
        if not 0 <= label < len(self.classes):
            raise UserError(
                f"{self.path}: {name!r} has label {label}, the label space has {len(self.classes)} classes (0 to "
                f"{len(self.classes) - 1}); choose another with --classes, or other labels with --labels"
            )
        return self.classes[label]


def open_webdataset(
    path: Path, *, split: str | None, labels: str | None, label_space: LabelSpace | None
) -> SeekableSource:
    """Open a folder of tars, or one tar; raises UserError.

    Of a set with an index of ours, the index and its label space count. Else the meaning of the labels is that of
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
            if labels:
                raise UserError(f"{info_path}: the labels of this set stand in its index; leave --labels out")
            return open_indexed_set(path, name)
        chosen = info["splits"][name]
        files = [path / str(file) for file in chosen.get("filenames", [])]
        if labels is None:
            label_key = chosen.get("alt_label")
        if not chosen.get("alt_label"):
            lengths = list(chosen.get("shard_lengths") or [])
    else:
        files = sorted(path.glob("*.tar"))
        found = sorted({word for file in files for word in file.name.split("-")} & KNOWN_SPLITS)
        if split is None and len(found) > 1:
            raise UserError(f"{path}: choose one of its splits with --source-split: {', '.join(found)}")
        files = [file for file in files if split is None or split in file.name.split("-")]
    if not files:
        raise UserError(f"{path}: holds no tars" + (f" of split {split!r} (NAME-{split}-0000.tar)" if split else ""))
    classes = None if label_space is None else label_space.classes
    lengths += [None] * (len(files) - len(lengths))
    parts = [
        Shard(
            name=file.name.removesuffix(".tar").replace(".", "_"),
            path=file,
            label_key=label_key,
            classes=classes,
            num_samples=length,
        )
        for file, length in zip(files, lengths, strict=False)
    ]
    return SeekableSource(parts=tuple(sorted(parts, key=lambda part: part.name)), classes=classes)


def _choose_split(info: Mapping[str, Any], split: str | None, path: Path) -> str:
    splits: Mapping[str, Mapping[str, Any]] = info["splits"]
    if split is None and len(splits) == 1:
        return next(iter(splits))
    if split is None or split not in splits:
        raise UserError(f"{path}: choose one of its splits with --source-split: {', '.join(splits)}")
    return split

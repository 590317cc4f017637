"""Sets with an index of ours, as a source: what the index lists, so a subset gives its own samples only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hornet.errors import UserError
from hornet.shards.build.keys import make_plain
from hornet.shards.build.source import Entry, PartListing, SeekableSource
from hornet.shards.shard_set import open_shards
from hornet.shards.tar import LocalTar, Member, TarError, TarStream, read_member


@dataclass(frozen=True, kw_only=True)
class IndexedShard:
    """One tar, and the rows of an index that are about it."""

    name: str
    path: Path
    index: Path
    """The `.npy`."""
    start: int
    """First row."""
    stop: int
    """Row behind the last."""
    classes: tuple[str, ...]
    """Names of the labels."""

    def list(self) -> PartListing:
        """See Part. The headers that the index points to are read, for the names; raises UserError if they differ."""
        rows = np.load(self.index, mmap_mode="r", allow_pickle=False)[self.start : self.stop]
        try:
            with LocalTar(self.path, sparsely=True) as tar:
                entries = [
                    Entry(
                        name=member.name,
                        class_name=self.classes[label],
                        offset=member.payload_offset,
                        size=member.size,
                    )
                    for member, label in self._read_members(tar, rows)
                ]
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from error
        return PartListing(entries=tuple(sorted(entries, key=lambda entry: entry.name)))

    def _read_members(
        self, tar: LocalTar, rows: np.ndarray[tuple[int], np.dtype[np.void]]
    ) -> Iterator[tuple[Member, int]]:
        for offset, span, label in zip(
            rows["offset"].tolist(), rows["span"].tolist(), rows["label"].tolist(), strict=True
        ):
            try:
                member = read_member(TarStream(tar, hashed=False, position=offset).read, offset=offset)
            except TarError as error:
                raise UserError(f"{self.path}: {error}; index it again") from error
            if member is None or member.payload_offset + member.size != offset + span:
                raise UserError(f"{self.path}: byte {offset}: another member than {self.index} says; index it again")
            yield member, label


def open_indexed_set(folder: Path, split: str) -> SeekableSource:
    """Open a split of a set with an index of ours; raises UserError if its files are not those of its manifest."""
    shards = open_shards(folder, split)
    parts = [
        IndexedShard(
            name=make_plain(shard.removesuffix(".tar")),
            path=shards.find_file(number),
            index=folder / shards.split.index,
            start=int(shards.starts[number]),
            stop=int(shards.starts[number + 1]),
            classes=shards.label_space.classes,
        )
        for number, shard in enumerate(shards.split.shards)
    ]
    return SeekableSource(parts=tuple(sorted(parts, key=lambda part: part.name)), classes=shards.label_space.classes)

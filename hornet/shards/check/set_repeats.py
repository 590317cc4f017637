"""What `verify` says about content and names that stand more than once in a set: found by sorting their hashes.

24 bytes a sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hornet.shards.check.finding import Finding, make_finding
from hornet.shards.check.shard_check import ShardCheck
from hornet.shards.manifest import Split
from hornet.shards.shard_set import shard_stem
from hornet.shards.tar import LocalTar, TarError, TarStream, read_member, split_name

Numbers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class CheckedSplit:
    """A split after its tars were checked."""

    split: Split
    """As the manifest describes it."""
    folder: Path
    """Where its tars are."""
    index: Path | None
    """Its index; None if that is unusable."""
    checks: Sequence[ShardCheck]
    """Findings of each tar, in the order of the split's shards."""
    num_errors: int
    """Errors in its tars and its index."""


class _Samples:
    """All samples of the checked splits, under one number each."""

    def __init__(self, splits: Sequence[CheckedSplit]) -> None:
        self.splits = [split for split in splits if split.index is not None]
        sizes = [split.split.num_samples for split in self.splits]
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        digests = [check.digests for split in self.splits for check in split.checks]
        whole = np.concatenate(digests) if digests else np.zeros(0, [(name, "<u8") for name in ("high", "low", "stem")])
        self.high, self.low, self.stem = (np.ascontiguousarray(whole[name]) for name in ("high", "low", "stem"))
        self.offsets = np.zeros(len(whole), np.int64)
        self.tars = np.zeros(len(whole), np.int64)
        paths: dict[str, int] = {}
        for split, start, stop in zip(self.splits, self.starts[:-1], self.starts[1:], strict=True):
            assert split.index is not None
            self.offsets[start:stop] = np.load(split.index, mmap_mode="r")["offset"]
            numbers = [paths.setdefault(str((split.folder / s).resolve()), len(paths)) for s in split.split.shards]
            self.tars[start:stop] = np.repeat(numbers, split.split.shard_lengths)

    def split_of(self, samples: Numbers) -> Numbers:
        found: Numbers = np.searchsorted(self.starts, samples, side="right") - 1
        return found

    def locate(self, sample: int) -> tuple[str, str, int, str]:
        """Return shard, key, byte and split's name."""
        number = int(self.split_of(np.array([sample]))[0])
        split = self.splits[number]
        ends = np.cumsum(split.split.shard_lengths)
        shard = split.split.shards[int(np.searchsorted(ends, sample - int(self.starts[number]), side="right"))]
        offset = int(self.offsets[sample])
        return shard, f"{shard_stem(shard)}/{_read_stem(split.folder / shard, offset)}", offset, split.split.name


def find_set_repeats(splits: Sequence[CheckedSplit]) -> Iterator[Finding]:
    """Yield what there is to say: duplicates in a split, leakage between splits, samples and names in common."""
    samples = _Samples(splits)
    readable = np.flatnonzero(samples.high | samples.low)
    yield from _find_equal_contents(samples, readable)
    for number in range(len(samples.splits)):
        inside = readable[(readable >= samples.starts[number]) & (readable < samples.starts[number + 1])]
        yield from _find_equal_stems(samples, inside)


def _find_equal_contents(samples: _Samples, readable: Numbers) -> Iterator[Finding]:
    repeats = find_repeats(samples.high[readable], samples.low[readable], samples=readable)
    found, firsts = repeats.samples, repeats.firsts
    is_shared = (samples.tars[found] == samples.tars[firsts]) & (samples.offsets[found] == samples.offsets[firsts])
    other_split = samples.split_of(found) != samples.split_of(firsts)
    for number in np.unique(samples.split_of(found[is_shared & other_split])).tolist():
        here = is_shared & other_split & (samples.split_of(found) == number)
        name = samples.splits[number].split.name
        first = samples.locate(int(firsts[here][0]))[3]
        detail = f"{int(here.sum())} samples are samples of another split ({first!r} and others before it), by design"
        yield make_finding("shared", detail, shard=name)
    for sample, first, crosses in zip(
        found[~is_shared].tolist(), firsts[~is_shared].tolist(), other_split[~is_shared].tolist(), strict=True
    ):
        shard, key, byte, name = samples.locate(sample)
        _, first_key, first_byte, first_name = samples.locate(first)
        kind = "leakage" if crosses else "duplicate"
        detail = f"split {name!r}: the same bytes as {first_key} at byte {first_byte} of split {first_name!r}"
        yield make_finding(kind, detail, shard=shard, key=key, byte=byte)


def _find_equal_stems(samples: _Samples, inside: Numbers) -> Iterator[Finding]:
    repeats = find_repeats(samples.stem[inside], samples=inside)
    elsewhere = samples.tars[repeats.samples] != samples.tars[repeats.firsts]
    if not elsewhere.any():
        return
    _, key, _, name = samples.locate(int(repeats.samples[elsewhere][0]))
    first_key = samples.locate(int(repeats.firsts[elsewhere][0]))[1]
    detail = (
        f"{int(elsewhere.sum())} samples have a name that stands in an earlier tar too, as {key} and {first_key}; here "
        "keys hold the tar's name, but webdataset and timm see the member's only"
    )
    yield make_finding("repeated-stem", detail, shard=name)


def _read_stem(path: Path, offset: int) -> str:
    try:
        with LocalTar(path) as source:
            member = read_member(TarStream(source, hashed=False, position=offset).read, offset=offset)
    except (OSError, TarError):
        member = None
    return f"@{offset}" if member is None else split_name(member.name)[0]


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """Samples, and for each the first of those it equals."""

    samples: Numbers
    """Numbers of samples that equal an earlier one."""
    firsts: Numbers
    """For each of them, the first."""


def find_repeats(*hashes: Hashes, samples: Numbers) -> Repeats:
    """Find which of `samples` agree in all `hashes` (each one value a sample) with an earlier one."""
    order = np.lexsort((samples, *hashes))
    if not len(order):
        return Repeats(samples=samples, firsts=samples)
    is_first = np.zeros(len(order), bool)
    is_first[0] = True
    for values in hashes:
        is_first[1:] |= values[order][1:] != values[order][:-1]
    heads = np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
    repeated = ~is_first
    found, firsts = samples[order][repeated], samples[order[heads[repeated]]]
    by_number = np.argsort(found, kind="stable")
    return Repeats(samples=found[by_number], firsts=firsts[by_number])

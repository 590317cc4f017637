"""Lists of samples to leave out: JSON lines with `shard` and `offset`, or a `key` alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hornet.durable import read_json_lines
from hornet.errors import UserError
from hornet.shards.shard_set import ShardSet, shard_stem
from hornet.shards.tar import TarError, read_member, split_name

Flags = npt.NDArray[np.bool_]


@dataclass(kw_only=True)
class Exclusion:
    """What one shard's lines name."""

    offsets: dict[int, str] = field(default_factory=dict)
    """Byte of the sample's record in the tar, and the line for messages."""
    stems: dict[str, str] = field(default_factory=dict)
    """Stem of the sample, where a line has no byte: found by reading the shard's headers."""


Exclusions = dict[str, Exclusion]
"""By the tar's name without `.tar`."""


def read_exclusions(path: Path) -> Exclusions:
    """Read a list of samples: `key` ("SHARD/STEM"), or `shard` and `offset` (which need no reading of the tar).

    Raises UserError naming the line.
    """
    if not path.is_file():
        raise UserError(f"{path}: the list of samples to leave out is not there; give a file of JSON lines")
    exclusions: Exclusions = {}
    lines = path.read_bytes()
    if lines and not lines.endswith(b"\n"):
        raise UserError(f"{path}: its last line has no end, the file was cut; write it again")
    for number, row in enumerate(read_json_lines(path), start=1):
        where = f"{path}: line {number}"
        row = row if isinstance(row, dict) else {}
        key, shard, offset = row.get("key"), row.get("shard"), row.get("offset")
        if isinstance(shard, str) and isinstance(offset, int):
            exclusions.setdefault(shard_stem(shard), Exclusion()).offsets[offset] = where
        elif isinstance(key, str) and "/" in key:
            stem_of_shard, _, stem = key.partition("/")
            exclusions.setdefault(stem_of_shard, Exclusion()).stems[stem] = where
        else:
            raise UserError(f'{where}: must hold "shard" and "offset", or a "key" such as "SHARD/STEM", not {row}')
    return exclusions


@dataclass(frozen=True, kw_only=True)
class Matched:
    """What a list means for one split."""

    is_excluded: Flags
    """(num_samples,) for each sample."""
    unmatched: tuple[str, ...]
    """Lines (file and number) that name no sample of the split."""


def match_exclusions(shards: ShardSet, exclusions: Exclusions) -> Matched:
    """Find the listed samples in a split; headers are read only of tars that lines name by key alone."""
    is_excluded = np.zeros(shards.num_samples, dtype=np.bool_)
    left = {stem: Exclusion(offsets=dict(e.offsets), stems=dict(e.stems)) for stem, e in exclusions.items()}
    for number, name in enumerate(shards.split.shards):
        wanted = left.get(shard_stem(name))
        if wanted is None:
            continue
        first, stop = int(shards.starts[number]), int(shards.starts[number + 1])
        for sample, offset in enumerate(shards.records["offset"][first:stop].tolist(), start=first):
            if wanted.offsets.pop(offset, None) is not None:
                is_excluded[sample] = True
        if wanted.stems:
            for sample, stem in _read_stems(shards, number):
                if wanted.stems.pop(stem, None) is not None:
                    is_excluded[sample] = True
    unmatched = [where for e in left.values() for where in (*e.offsets.values(), *e.stems.values())]
    return Matched(is_excluded=is_excluded, unmatched=tuple(unmatched))


def _read_stems(shards: ShardSet, number: int) -> Iterator[tuple[int, str]]:
    path = shards.find_file(number)
    try:
        with path.open("rb") as file:
            for sample in range(int(shards.starts[number]), int(shards.starts[number + 1])):
                offset = int(shards.records["offset"][sample])
                file.seek(offset)
                member = read_member(file.read, offset=offset)
                if member is None:
                    raise TarError(offset, "the archive's end, where the index says a sample is")
                yield sample, split_name(member.name)[0]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except TarError as error:
        raise UserError(f"{path}: {error}; copy the tar again") from error

"""Training samples that are, or look like, a validation sample: found by hash, listed for `subset --exclude`.

Not here: what a hash is (`image_hash.py`), how near ones are found (`hash_matching.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from hornet.durable import write_json_lines
from hornet.errors import UserError
from hornet.shards.index import UNKNOWN_CRC
from hornet.shards.processes import map_in_processes
from hornet.shards.reader import ShardReader, UnreadableSampleError
from hornet.shards.shard_set import ShardSet, open_shards
from hornet.shards.views.hash_matching import find_nearest
from hornet.shards.views.image_hash import (
    DAMAGED,
    FLAT,
    HASH_SIDE,
    USABLE,
    HashCache,
    hash_split,
    open_cache,
    read_hashes,
)

DEFAULT_DISTANCE = 48
"""Of 256 bits. Measured on 2,500 drawings of openclipart: see docs/data.md."""


@dataclass(frozen=True, kw_only=True)
class DuplicatesPlan:
    """Which two splits to compare, how near, and where to list what is found."""

    train: Path
    """Set whose samples are to be listed."""
    validation: Path
    """Set whose images must not be trained on."""
    train_split: str
    """Name of the split of `train`."""
    validation_split: str
    """Name of the split of `validation`."""
    output: Path
    """The list; hashes are kept in a folder beside it."""
    distance: int
    """Bits of 256 that may differ."""
    num_workers: int
    """Processes that hash and compare."""

    def __post_init__(self) -> None:
        if not 0 <= self.distance <= HASH_SIDE * HASH_SIDE // 2:
            raise UserError(f"--distance: must be from 0 to {HASH_SIDE * HASH_SIDE // 2}, not {self.distance}")


@dataclass(frozen=True, kw_only=True)
class Match:
    """A training sample and the validation sample nearest to it."""

    sample: int
    """Row of the training split's index."""
    other: int
    """Row of the validation split's index."""
    distance: int
    """Bits that differ; 0 for equal bytes."""
    same_bytes: bool
    """Whether the two images are the same file."""


@dataclass(frozen=True, kw_only=True)
class DuplicatesReport:
    """The matches between two splits, and what could not be compared by looks."""

    train: ShardSet
    """The training split that was read."""
    validation: ShardSet
    """The validation split that was read."""
    matches: tuple[Match, ...]
    """In the order of the training split."""
    num_flat: tuple[int, int]
    """Training and validation samples that are blank or plain: compared by their bytes alone."""
    num_damaged: tuple[int, int]
    """Training and validation samples that could not be decoded: likewise."""
    flat_list: Path
    """JSON lines of the flat samples of both splits."""


def find_duplicates(plan: DuplicatesPlan) -> DuplicatesReport:
    """Compare each training sample with each validation sample and write the list.

    Raises UserError if imagehash is missing, the two splits are one, or a set's files are not those of its manifest.
    """
    train, validation = open_shards(plan.train, plan.train_split), open_shards(plan.validation, plan.validation_split)
    if train.fingerprint == validation.fingerprint:
        raise UserError(f"{plan.train}: split {plan.train_split!r} is compared with itself; name two different splits")
    plan.output.parent.mkdir(parents=True, exist_ok=True)
    folder = plan.output.with_name(f"{plan.output.stem}-hashes")
    caches = [open_cache(folder, shards) for shards in (train, validation)]
    for cache in caches:
        hash_split(cache, num_workers=plan.num_workers)
    found = {match.sample: match for match in _match_hashes(caches[0], caches[1], plan)}
    found |= {match.sample: match for match in _match_bytes(caches[0], caches[1])}
    matches = tuple(found[sample] for sample in sorted(found))
    states = [np.concatenate([hashes["state"] for hashes in read_hashes(cache)]) for cache in caches]
    flat_list = plan.output.with_name(f"{plan.output.stem}-flat.jsonl")
    flat = [row for shards, state in zip((train, validation), states, strict=True) for row in _list_flat(shards, state)]
    write_json_lines(flat_list, flat)
    write_json_lines(plan.output, _describe_matches(train, validation, matches))
    return DuplicatesReport(
        train=train,
        validation=validation,
        matches=matches,
        num_flat=(int((states[0] == FLAT).sum()), int((states[1] == FLAT).sum())),
        num_damaged=(int((states[0] == DAMAGED).sum()), int((states[1] == DAMAGED).sum())),
        flat_list=flat_list,
    )


def describe_duplicates(report: DuplicatesReport) -> str:
    """Return the findings in lines."""
    same = sum(match.same_bytes for match in report.matches)
    others = len({match.other for match in report.matches})
    (flat, other_flat), (damaged, other_damaged) = report.num_flat, report.num_damaged
    lines = [
        f"compared     {report.train.num_samples} of {report.train.split.name} with {report.validation.num_samples} of "
        f"{report.validation.split.name}",
        f"found        {len(report.matches)} near {others} others: {same} of equal bytes, "
        f"{len(report.matches) - same} that look alike",
        f"flat         {flat} and {other_flat} are blank or plain, compared by bytes alone; see {report.flat_list}",
        f"damaged      {damaged} and {other_damaged} cannot be decoded",
    ]
    distances = [match.distance for match in report.matches if not match.same_bytes]
    if distances:
        counts, edges = np.histogram(distances, bins=np.arange(0, max(distances) + 9, 8))
        parts = (f"{low}-{low + 7}: {count}" for low, count in zip(edges.tolist(), counts.tolist(), strict=False))
        lines.append(f"distances    {', '.join(parts)}")
    return "\n".join(lines)


_task: tuple[HashCache, npt.NDArray[np.uint64], int] | None = None


def _start(cache: HashCache, others: npt.NDArray[np.uint64], distance: int) -> None:
    global _task
    _task = (cache, others, distance)


def _match_shard(number: int) -> list[tuple[int, int, int]]:
    """Return row in the shard, place among the others, distance of each match."""
    assert _task is not None
    cache, others, distance = _task
    hashes = cache.read(number)
    if hashes is None:
        raise UserError(f"{cache.path(number)}: was removed or changed meanwhile; start again")
    usable = np.nonzero(hashes["state"] == USABLE)[0]
    nearest, distances = find_nearest(hashes["words"][usable], others, distance=distance)
    near = np.nonzero(nearest >= 0)[0]
    return list(zip(usable[near].tolist(), nearest[near].tolist(), distances[near].tolist(), strict=True))


def _match_hashes(cache: HashCache, other: HashCache, plan: DuplicatesPlan) -> Iterator[Match]:
    hashes = np.concatenate(list(read_hashes(other)))
    samples = np.nonzero(hashes["state"] == USABLE)[0]
    arguments = (cache, np.ascontiguousarray(hashes["words"][samples]), plan.distance)
    split, starts = cache.shards.split, cache.shards.starts
    numbers = range(len(split.shards))
    found = map_in_processes(
        _match_shard, numbers, num_workers=plan.num_workers, initializer=_start, arguments=arguments
    )
    with tqdm(total=split.num_samples, desc="compare", unit=" images", disable=None) as progress:
        for number, rows in zip(numbers, found, strict=True):
            for row, place, distance in rows:
                yield Match(
                    sample=int(starts[number]) + row, other=int(samples[place]), distance=distance, same_bytes=False
                )
            progress.update(split.shard_lengths[number])


def _match_bytes(train: HashCache, validation: HashCache) -> Iterator[Match]:
    """Find images of equal bytes: those of equal checksums are read and compared."""
    crcs: dict[int, list[int]] = {}
    for sample, crc in enumerate(np.concatenate([hashes["crc"] for hashes in read_hashes(validation)]).tolist()):
        if crc != UNKNOWN_CRC:
            crcs.setdefault(crc, []).append(sample)
    wanted = np.array(list(crcs), np.uint32)
    candidates = [
        (int(start) + row, crcs[int(hashes["crc"][row])])
        for start, hashes in zip(train.shards.starts[:-1], read_hashes(train), strict=True)
        for row in np.nonzero(np.isin(hashes["crc"], wanted))[0].tolist()
    ]
    one, other = ShardReader(train.shards), ShardReader(validation.shards)
    try:
        for sample, others in candidates:
            image = _read(one, sample)
            for match in others:
                if image is not None and image == _read(other, match):
                    yield Match(sample=sample, other=match, distance=0, same_bytes=True)
                    break
    finally:
        one.close()
        other.close()


def _read(reader: ShardReader, sample: int) -> bytes | None:
    try:
        return reader.read(sample).image
    except UnreadableSampleError:
        return None


def _read_key(reader: ShardReader, sample: int) -> str:
    try:
        return reader.read(sample).key
    except UnreadableSampleError as error:
        raise UserError(f"{error}; it could be read when it was hashed: copy its tar again") from error


def _describe_matches(train: ShardSet, validation: ShardSet, matches: tuple[Match, ...]) -> Iterator[dict[str, Any]]:
    one, other = ShardReader(train), ShardReader(validation)
    for match in matches:
        yield {
            "key": _read_key(one, match.sample),
            **_locate(train, match.sample),
            "matches": _read_key(other, match.other),
            "distance": match.distance,
            "same_bytes": match.same_bytes,
        }
    one.close()
    other.close()


def _list_flat(shards: ShardSet, states: npt.NDArray[np.uint8]) -> list[dict[str, Any]]:
    samples = np.nonzero(states == FLAT)[0].tolist()
    return [{"split": shards.split.name, **_locate(shards, sample)} for sample in samples]


def _locate(shards: ShardSet, sample: int) -> dict[str, Any]:
    return {
        "shard": shards.split.shards[shards.shard_of(sample)],
        "offset": int(shards.records["offset"][sample]),
    }

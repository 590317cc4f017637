"""What `index` found and did not take: for people, and a list of the samples that are not whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hornet.durable import write_json_lines
from hornet.shards.index import ShardIndex
from hornet.shards.manifest import Manifest
from hornet.shards.sample_parts import PassedMembers
from hornet.shards.shard_set import shard_stem


@dataclass(frozen=True, kw_only=True)
class IndexReport:
    """The set that tars became, and what of them is not in it."""

    manifest: Manifest
    """Of the set, with the splits that were indexed, as it now stands on disk."""
    left_out: Mapping[str, str]
    """Splits of the _info.json that were left out, and the .json key that their labels come from."""
    passed: PassedMembers
    """Members that belong to no sample."""
    num_incomplete: int
    """Samples that were left out since something of them is missing."""
    notes: tuple[Path, ...]
    """JSON lines that name them."""
    not_taken: tuple[str, ...]
    """Tars beside those that were indexed, of which no _info.json or pattern speaks."""


def write_incomplete(home: Path, name: str, shards: Sequence[str], indexes: Sequence[ShardIndex]) -> Path | None:
    """Name the samples that were left out in JSON lines."""
    path = home / f"{name}.incomplete.jsonl"
    rows = [
        {"key": f"{shard_stem(shard)}/{key}", "reason": reason}
        for shard, index in zip(shards, indexes, strict=True)
        for key, reason in index.incomplete
    ]
    if not rows:
        path.unlink(missing_ok=True)
        return None
    write_json_lines(path, rows)
    return path


def describe_rest(report: IndexReport) -> list[str]:
    """Return lines on what stands beside the samples: members, samples that are not whole, tars."""
    lines = [f"passed over  {report.passed.describe()}"] if report.passed.counts else []
    if report.num_incomplete:
        lines.append(f"left out     {report.num_incomplete} samples that are not whole")
        lines += [f"listed in    {path}" for path in report.notes]
    if report.not_taken:
        lines.append(
            f"note         {len(report.not_taken)} other tars are not part of the set, {report.not_taken[0]} for one"
        )
    return lines

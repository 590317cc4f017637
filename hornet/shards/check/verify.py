"""A set against its manifest: every tar, every sample, repeated content; a report by file, and a table.

Not here: what is checked within one tar (`shard_check.py`), filling in missing checksums (`fill_checksums.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tqdm import tqdm

from hornet.errors import UserError
from hornet.shards.check.fill_checksums import fill_checksums
from hornet.shards.check.finding import ERROR, KINDS, REMARKS, Finding, make_finding
from hornet.shards.check.set_repeats import CheckedSplit, find_set_repeats
from hornet.shards.check.shard_check import ShardCheck, ShardTask, check_shard
from hornet.shards.manifest import Manifest, Split, is_url, read_manifest
from hornet.shards.processes import count_cores, map_in_processes
from hornet.shards.sample_parts import SampleRule
from hornet.shards.shard_set import open_index

NUM_EXAMPLES = 20


@dataclass(frozen=True, kw_only=True)
class VerifyPlan:
    """Which set or split is verified, and how thoroughly."""

    folder: Path
    """Of the set: where its manifest is."""
    split: str | None
    """Only this split; None for all, and for content that stands in two of them."""
    num_workers: int | None
    """Processes; None for one a core."""
    report: Path | None
    """File for one line of JSON a finding."""
    decode: bool
    """Whether to decode every image."""
    write_checksums: bool
    """Whether to fill in checksums that are not known."""


@dataclass(kw_only=True)
class VerifyReport:
    """Findings over all tars of a set, counted by kind."""

    manifest: Manifest
    """Of the set that was verified; with the checksums that were filled in, if that was asked for."""
    num_samples: int = 0
    """Samples looked at."""
    num_shards: int = 0
    """Tars looked at."""
    counts: Counter[str] = field(default_factory=Counter)
    """Findings of each kind."""
    examples: list[Finding] = field(default_factory=list)
    """The first errors."""
    notes: list[str] = field(default_factory=list)
    """What else is to be said."""

    @property
    def num_errors(self) -> int:
        """Findings that are errors."""
        return sum(count for kind, count in self.counts.items() if kind in KINDS)


def verify_set(plan: VerifyPlan) -> VerifyReport:
    """Check a set and go on after whatever is wrong with it.

    Raises UserError if there is no set, its manifest is damaged, the report cannot be written, or a process died.
    """
    manifest = read_manifest(plan.folder)
    splits = [manifest.split(plan.split)] if plan.split else list(manifest.splits.values())
    for split in splits:
        if is_url(split.shard_folder):
            raise UserError(
                f"{manifest.path}: the tars of split {split.name!r} are at {split.shard_folder}; only local "
                "ones are verified"
            )
    report = VerifyReport(manifest=manifest)
    try:
        with plan.report.open("w") if plan.report else nullcontext() as file:
            checked = [_verify_split(plan, report, split, file) for split in splits]
            for finding in find_set_repeats(checked):
                _take(report, finding, file)
    except OSError as error:
        raise UserError(f"{plan.report}: the report cannot be written ({error.strerror})") from error
    report.notes += [f"split {name!r} has no index and was not looked at" for name in manifest.unindexed]
    if plan.write_checksums:
        report.manifest, notes = fill_checksums(manifest, checked)
        report.notes += notes
    return report


def _verify_split(plan: VerifyPlan, report: VerifyReport, split: Split, file: IO[str] | None) -> CheckedSplit:
    folder = report.manifest.path.parent
    index: Path | None = folder / split.index
    try:
        open_index(folder / split.index, split)
    except UserError as error:
        index = None
        _take(report, make_finding("index-file", str(error), shard=split.index), file)
    tasks = _list_tasks(plan, report.manifest, split, index)
    results = map_in_processes(check_shard, tasks, num_workers=plan.num_workers or count_cores())
    checks: list[ShardCheck] = []
    num_errors = 0 if index else 1
    with tqdm(total=split.num_samples, desc=split.name, unit=" samples", disable=None) as bar:
        for check, length in zip(results, split.shard_lengths, strict=True):
            for finding in check.findings:
                _take(report, finding, file)
                num_errors += finding.severity == ERROR
            check.findings = []  # written and counted: a damaged set must not fill the memory
            checks.append(check)
            bar.update(length)
    report.num_samples += split.num_samples
    report.num_shards += len(split.shards)
    return CheckedSplit(
        split=split, folder=folder / split.shard_folder, index=index, checks=checks, num_errors=num_errors
    )


def _list_tasks(plan: VerifyPlan, manifest: Manifest, split: Split, index: Path | None) -> list[ShardTask]:
    rule = SampleRule(
        label_key=split.label_key,
        label_names=None if manifest.label_space.is_numbered else manifest.label_space.labels,
        num_classes=len(manifest.label_space),
        incomplete="skip" if split.origin.get("incomplete") == "skip" else "refuse",
    )
    tasks, first = [], 0
    for number, shard in enumerate(split.shards):
        end = first + split.shard_lengths[number]
        tasks.append(
            ShardTask(
                path=manifest.path.parent / split.shard_folder / shard,
                shard=shard,
                num_bytes=split.shard_bytes[number],
                sha256=split.shard_sha256[number],
                index=index,
                samples=(first, end) if index else (0, 0),
                rule=rule,
                is_view=split.is_view,
                num_classes=len(manifest.label_space),
                decode=plan.decode,
                hash_tar=plan.write_checksums,
            )
        )
        first = end
    return tasks


def _take(report: VerifyReport, finding: Finding, file: IO[str] | None) -> None:
    report.counts[finding.kind] += 1
    if finding.severity == ERROR and len(report.examples) < NUM_EXAMPLES:
        report.examples.append(finding)
    if file is not None:
        file.write(finding.to_line() + "\n")


def describe_verification(report: VerifyReport) -> str:
    """Return the first errors and a table of what was found."""
    lines = [_describe_finding(finding) for finding in report.examples]
    if report.num_errors > len(report.examples):
        lines.append(f"... and {report.num_errors - len(report.examples)} more errors; --report lists all")
    lines += list(_describe_counts(report.counts, "error", list(KINDS)))
    lines += list(_describe_counts(report.counts, "remark", list(REMARKS)))
    lines += [f"note         {note}" for note in report.notes]
    state = f"{report.num_errors} errors" if report.num_errors else "no errors"
    lines.append(f"verified     {report.num_samples} samples in {report.num_shards} tars: {state}")
    return "\n".join(lines)


def _describe_finding(finding: Finding) -> str:
    place = finding.key or finding.shard
    byte = "" if finding.byte is None else f" at byte {finding.byte}"
    return f"{finding.kind:<12} {place}{byte}: {finding.detail}"


def _describe_counts(counts: Counter[str], title: str, order: Sequence[str]) -> Iterator[str]:
    texts = KINDS | REMARKS
    known = sorted(counts, key=lambda kind: (_base(kind, order), kind))
    for kind in known:
        if _base(kind, order) < len(order):
            yield f"{title:<7} {kind:<14} {counts[kind]:>9}  {texts[order[_base(kind, order)]]}"


def _base(kind: str, order: Sequence[str]) -> int:
    """Return where a kind stands in the list, a mode wherever `mode` does; its length if it does not."""
    name = "mode" if kind.startswith("mode-") else kind
    return list(order).index(name) if name in order else len(order)

"""Everything `verify` finds out about one tar: a strict walk, the index against it, and each sample's bytes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from isal.isal_zlib import crc32

from hornet.shards.check.finding import Finding, make_finding
from hornet.shards.check.image_check import check_image
from hornet.shards.index import RECORD, UNKNOWN_CRC, Records, read_label, walk
from hornet.shards.sample_label import NO_LABEL, LabelError, MissingLabelError
from hornet.shards.sample_parts import SampleRule, choose_parts
from hornet.shards.shard_set import shard_stem
from hornet.shards.tar import LocalTar, Member, TarError, TarStream, read_member, split_name

DIGEST = np.dtype([("high", "<u8"), ("low", "<u8"), ("stem", "<u8")])
"""high, low: 128 bits of the SHA-256 of the image, or zeros if it cannot be read; stem: 64 bits of that of the name."""


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """A tar to check, and what manifest and index say of it."""

    path: Path
    """Where the tar is; it need not be there."""
    shard: str
    """Its name in the manifest."""
    num_bytes: int
    """Bytes of the tar, as the manifest says."""
    sha256: str | None
    """SHA-256 of the tar in hex, as the manifest says; None where it says none."""
    index: Path | None
    """The split's index; None if that is unusable, and then only the tar itself is checked."""
    samples: tuple[int, int]
    """The rows of the index that belong to the tar: first and end."""
    rule: SampleRule
    """What the split's samples are."""
    is_view: bool
    """Whether the split was chosen from a larger one: then the tar may hold more, under other labels."""
    num_classes: int
    """Classes of the label space: labels are 0 up to this."""
    decode: bool
    """Whether to decode the images."""
    hash_tar: bool
    """Whether to compute the SHA-256 although none is recorded."""


@dataclass(kw_only=True)
class ShardCheck:
    """Findings in one tar, and the checksums by which samples are compared with those of other tars."""

    findings: list[Finding] = field(default_factory=list)
    """In the order of the tar, by and large."""
    digests: npt.NDArray[np.void] = field(default_factory=lambda: np.zeros(0, DIGEST))
    """One DIGEST a sample."""
    crcs: npt.NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    """zlib.crc32 of each sample's image; 0 where it cannot be read."""
    sha256: str | None = None
    """Of the tar, if it was computed."""


def check_shard(task: ShardTask) -> ShardCheck:
    """Check one tar; whatever is wrong with it is a finding."""
    num_samples = task.samples[1] - task.samples[0]
    check = ShardCheck(digests=np.zeros(num_samples, DIGEST), crcs=np.zeros(num_samples, np.uint32))
    try:
        with LocalTar(task.path) as source:
            _Checker(task, source, check).run()
    except FileNotFoundError:
        check.findings.append(make_finding("missing", f"{task.path} is not there", shard=task.shard))
    except OSError as error:
        detail = f"{task.path}: cannot be read ({error.strerror})"
        check.findings.append(make_finding("unreadable", detail, shard=task.shard))
    return check


class _Checker:
    """One tar on its way through the checks."""

    def __init__(self, task: ShardTask, source: LocalTar, check: ShardCheck) -> None:
        self._task = task
        self._source = source
        self._check = check
        self._found: dict[str, tuple[dict[str, Member], dict[str, Member]]] = {}
        self._images: dict[int, Member] = {}
        self._labels: dict[str, int | None] = {}
        self._is_whole = False

    def run(self) -> None:
        task = self._task
        if self._source.size != task.num_bytes:
            self._find("size", f"{self._source.size} bytes, the manifest says {task.num_bytes}")
        stream = TarStream(self._source, hashed=task.hash_tar or task.sha256 is not None)
        try:
            for member in walk(stream):
                self._note(member)
            self._is_whole = True
        except TarError as error:
            self._find("tar", error.problem, byte=error.offset)
        if not task.is_view:
            self._pair()
        if stream.is_hashed:
            stream.skip(stream.size - stream.position)
            self._check.sha256 = stream.sha256
            if task.sha256 not in (None, stream.sha256):
                self._find("sha256", f"SHA-256 is {stream.sha256}, the manifest says {task.sha256}")
        if task.index is not None:
            records = np.load(task.index, mmap_mode="r")[slice(*task.samples)]
            self._check_against(np.array(records, RECORD))

    def _find(self, kind: str, detail: str, *, stem: str | None = None, byte: int | None = None) -> None:
        key = None if stem is None else f"{shard_stem(self._task.shard)}/{stem}"
        self._check.findings.append(make_finding(kind, detail, shard=self._task.shard, key=key, byte=byte))

    def _note(self, member: Member) -> None:
        stem, extension = split_name(member.name)
        ending = extension.rpartition(".")[2]
        is_label = ending == self._task.rule.label
        if not is_label and ending not in self._task.rule.images:
            return
        if not member.is_file:
            self._find("tar", f"member {member.name!r} is not a plain file", stem=stem, byte=member.offset)
            return
        base = member.name[: -len(ending) - 1]
        images, labels = self._found.setdefault(stem, ({}, {}))
        if not is_label:
            if base in images:
                self._find("repeated-key", f"a second image, {member.name!r}", stem=stem, byte=member.offset)
            images.setdefault(base, member)
            self._images[member.offset] = member
        elif base in labels:
            self._find("repeated-key", f"a second label, {member.name!r}", stem=stem, byte=member.offset)
        else:
            labels[base] = member

    def _pair(self) -> None:
        """Find out which members make the samples, and read their labels; the rest is passed over as in `index`."""
        for stem, (images, labels) in self._found.items():
            offset = min(member.offset for member in (*images.values(), *labels.values()))
            try:
                image, label = choose_parts(stem, images, labels)
            except LabelError as error:
                self._find("repeated-key", str(error), stem=stem, byte=offset)
                continue
            for base, member in images.items():
                if base != image:
                    del self._images[member.offset]
            if label is not None:
                self._labels[stem] = self._read_label(stem, labels[label])
            if self._task.rule.incomplete == "skip" or not self._is_whole:
                continue
            if label is None:
                self._find("half-sample", f"no .{self._task.rule.label}", stem=stem, byte=offset)
            elif image is None:
                self._find("half-sample", f"a .{self._task.rule.label} without an image", stem=stem)

    def _read_label(self, stem: str, member: Member) -> int | None:
        stream = TarStream(self._source, hashed=False, position=member.payload_offset)
        try:
            return read_label(member, stream, self._task.rule)
        except TarError as error:
            if self._task.rule.incomplete == "skip" and isinstance(error.__cause__, MissingLabelError):
                return NO_LABEL
            self._find("label-member", error.problem, stem=stem, byte=member.offset)
        return None

    def _check_against(self, records: Records) -> None:
        offsets = records["offset"].tolist()
        if not self._task.is_view and self._is_whole:
            self._check_completeness(set(offsets))
        unknown = int((records["crc"] == UNKNOWN_CRC).sum())
        if unknown or self._task.sha256 is None:
            tar = "not known" if self._task.sha256 is None else "known"
            self._find("no-checksum", f"SHA-256 of the tar {tar}; {unknown} of {len(records)} samples without crc")
        seen: set[int] = set()
        for number, offset in enumerate(offsets):
            if offset in seen:
                self._find("index", "the index names this image twice", stem=f"@{offset}", byte=offset)
            seen.add(offset)
            self._check_sample(number, records[number])

    def _check_completeness(self, indexed: set[int]) -> None:
        rule = self._task.rule
        may_skip = rule.label_key is not None or rule.incomplete == "skip"
        for offset, member in self._images.items():
            stem = split_name(member.name)[0]
            is_skipped = may_skip and self._labels.get(stem) == NO_LABEL
            if rule.incomplete == "skip":
                is_skipped = is_skipped or stem not in self._labels or member.size == 0
            if offset not in indexed and not is_skipped:
                self._find("not-indexed", "the index leaves this image out", stem=stem, byte=offset)

    def _check_sample(self, number: int, record: Any) -> None:
        offset, label = int(record["offset"]), int(record["label"])
        if not 0 <= label < self._task.num_classes:
            last = self._task.num_classes - 1
            self._find("label-range", f"label {label}, the classes are 0 to {last}", stem=f"@{offset}", byte=offset)
        member = self._images.get(offset)
        if member is None:
            member = self._look_for(offset)
        if member is None:
            return
        stem, extension = split_name(member.name)
        span = member.payload_offset + member.size - offset
        if span != int(record["span"]):
            detail = f"the index says {int(record['span'])} bytes from here, the tar {span}"
            self._find("index", detail, stem=stem, byte=offset)
        stored = self._labels.get(stem)
        if stored is not None and stored != label:
            self._find("label", f"the index says {label}, the tar {stored}", stem=stem, byte=offset)
        self._check_content(number, record, member, stem=stem, extension=extension)

    def _look_for(self, offset: int) -> Member | None:
        """Return the image at a byte that the walk did not come to, as the tar is damaged before it."""
        if self._is_whole:
            self._find("index", "no image of the tar begins at this byte", stem=f"@{offset}", byte=offset)
            return None
        stream = TarStream(self._source, hashed=False, position=offset)
        try:
            member = read_member(stream.read, offset=offset)
        except TarError as error:
            self._find("unreadable", error.problem, stem=f"@{offset}", byte=offset)
            return None
        if member is None or split_name(member.name)[1].rpartition(".")[2] not in self._task.rule.images:
            self._find("index", "no image of the tar begins at this byte", stem=f"@{offset}", byte=offset)
            return None
        return member

    def _check_content(self, number: int, record: Any, member: Member, *, stem: str, extension: str) -> None:
        offset = member.offset
        try:
            content = self._source.read_at(member.payload_offset, member.size)
        except OSError as error:
            self._find("unreadable", f"cannot be read ({error.strerror})", stem=stem, byte=offset)
            return
        if len(content) < member.size:
            self._find("unreadable", "the tar ends within it", stem=stem, byte=offset)
            return
        crc = crc32(content)
        if record["crc"] not in (crc, UNKNOWN_CRC):
            self._find("crc", f"checksum {crc:08x}, the index says {int(record['crc']):08x}", stem=stem, byte=offset)
        self._check.crcs[number] = crc
        high, low = np.frombuffer(hashlib.sha256(content).digest()[:16], "<u8")
        name = np.frombuffer(hashlib.sha256(stem.encode("utf-8", "surrogateescape")).digest()[:8], "<u8")[0]
        self._check.digests[number] = (high, low, name)
        if self._task.decode:
            for kind, detail in check_image(content, extension=extension.rpartition(".")[2]):
                self._find(kind, detail, stem=stem, byte=offset)

"""What `verify` has to say about a file or a sample, and of which kinds that may be."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

ERROR = "error"
REMARK = "remark"

KINDS = {
    "missing": "tars that are not there",
    "unreadable": "tars or samples that cannot be read",
    "size": "tars of another size than recorded",
    "sha256": "tars of other content than recorded",
    "tar": "damaged or cut tars; members in an image's place that are no files",
    "half-sample": "images without label, labels without image",
    "repeated-key": "samples of one name within a tar",
    "label-member": "labels' members that hold no label",
    "index-file": "index files that do not belong to the manifest",
    "index": "index entries that are not what the tar holds",
    "not-indexed": "images that the index leaves out",
    "label": "labels that are not those of the tar",
    "label-range": "labels outside the label space",
    "crc": "images of other content than indexed",
    "undecodable": "images that cannot be decoded",
    "leakage": "samples with the bytes of one in another split",
}
"""Kinds of errors, and what is found wrong under each."""

REMARKS = {
    "duplicate": "samples with the bytes of another in the split",
    "repeated-stem": "member names that stand in several tars",
    "shared": "splits that use the same samples of the same tars",
    "no-checksum": "tars whose checksums, or their samples', are not known",
    "format": "images of another format than their extension says",
    "mode": "images that are not RGB",
    "16-bit": "images of 16 bits a channel",
    "animated": "images of several frames; the first is taken",
    "small": "images of fewer than 32 pixels on an edge",
}
"""Kinds of remarks: what need not be wrong. A mode has its name behind it: mode-CMYK."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report."""

    shard: str
    """The tar's name in the manifest, or the index's; the split's if it concerns all of it."""
    key: str | None
    """`SHARD/STEM` of the sample, or None if it concerns the whole tar."""
    byte: int | None
    """Byte of the tar where it was met; None if it has no one place."""
    kind: str
    """See KINDS and REMARKS."""
    severity: str
    """ERROR or REMARK."""
    detail: str
    """A sentence for people."""

    def to_line(self) -> str:
        """Return the line of JSON."""
        return json.dumps(asdict(self))


def make_finding(kind: str, detail: str, *, shard: str, key: str | None = None, byte: int | None = None) -> Finding:
    """Make a finding whose severity is that of its kind."""
    severity = ERROR if kind in KINDS else REMARK
    return Finding(shard=shard, key=key, byte=byte, kind=kind, severity=severity, detail=detail)

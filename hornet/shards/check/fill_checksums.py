"""Checksums that were not known when a set was indexed, put into its index and manifest."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hornet.durable import write_bytes
from hornet.shards.check.set_repeats import CheckedSplit
from hornet.shards.index import UNKNOWN_CRC
from hornet.shards.manifest import Manifest, Split, read_manifest, write_manifest


def fill_checksums(manifest: Manifest, splits: Sequence[CheckedSplit]) -> tuple[Manifest, list[str]]:
    """Fill in missing checksums of the splits without errors; return the manifest as written, and notes for people.

    The new index gets a new name and the manifest, replaced last and at once, points to it: the set is always whole.
    """
    notes = []
    for checked in splits:
        name = checked.split.name
        if checked.index is None or checked.num_errors:
            notes.append(f"checksums of split {name!r} are not written: it has errors, and they would be sealed in")
            continue
        if read_manifest(manifest.path.parent).splits.get(name) != checked.split:
            notes.append(f"checksums of split {name!r} are not written: the split was changed meanwhile; verify again")
            continue
        split = _fill(manifest, checked)
        if split == checked.split:
            notes.append(f"checksums of split {name!r} were all known")
            continue
        manifest = read_manifest(manifest.path.parent).with_split(split)  # others may have added splits
        write_manifest(manifest)
        if split.index != checked.split.index:
            checked.index.unlink(missing_ok=True)
            notes.append(
                f"checksums of split {name!r} are written; its index changed and so did its fingerprint: runs that "
                "began on it before refuse to resume on it"
            )
        else:
            notes.append(f"checksums of split {name!r} are written; its fingerprint stays")
    return manifest, notes


def _fill(manifest: Manifest, checked: CheckedSplit) -> Split:
    """Write the new index, if it changes; return the split with all checksums."""
    split = replace(checked.split, shard_sha256=tuple(check.sha256 for check in checked.checks))
    assert checked.index is not None
    records = np.load(checked.index)
    missing = records["crc"] == UNKNOWN_CRC
    records["crc"][missing] = np.concatenate([check.crcs for check in checked.checks])[missing]
    if not (missing & (records["crc"] != UNKNOWN_CRC)).any():
        return split
    buffer = io.BytesIO()
    np.save(buffer, records, allow_pickle=False)
    content = buffer.getvalue()
    plain = f"{split.name}.index.npy"
    name = f"{split.name}.checked.index.npy" if split.index == plain else plain
    write_bytes(manifest.path.with_name(name), content)
    return replace(split, index=name, index_sha256=hashlib.sha256(content).hexdigest())

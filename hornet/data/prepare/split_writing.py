"""Tars, indexes and manifests on disk, each whole or not at all; the manifest comes last."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from webdataset import TarWriter

from hornet.data.index import Records, ShardIndex
from hornet.data.label_space import LabelSpace
from hornet.data.manifest import MANIFEST_NAME, Manifest, Split, read_manifest, write_manifest
from hornet.durable import sync_files, sync_folder, write_bytes
from hornet.errors import UserError


@dataclass(frozen=True, kw_only=True)
class EncodedSample:
    """What goes into a tar."""

    stem: str
    """Name of its members without the extension; no dots."""
    extension: str
    """Of the image: jpg, png or webp."""
    image: bytes
    """The encoded image."""
    label: int
    """In the set's label space."""


def write_tar(path: Path, samples: Iterable[EncodedSample]) -> None:
    """Write one shard under a temporary name, then rename it. The same samples give the same bytes."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        _write_members(temporary, samples)
        sync_files([temporary])
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _write_members(path: Path, samples: Iterable[EncodedSample]) -> None:
    # GNU format: plain headers for short names, an extra one for long ones. No times, no owners.
    with (
        path.open("wb") as file,
        TarWriter(file, user="", group="", mtime=0, encoder=False, format="GNU_FORMAT") as writer,
    ):
        for sample in samples:
            label = str(sample.label).encode("ascii")
            writer.write({"__key__": sample.stem, sample.extension: sample.image, "cls": label})


def open_set(folder: Path, *, name: str, label_space: LabelSpace) -> Manifest:
    """Return the manifest of the set in `folder`, or a new one without splits.

    Raises UserError if the set that is there has another label space.
    """
    if not (folder / MANIFEST_NAME).exists():
        return Manifest(path=folder / MANIFEST_NAME, name=name, label_space=label_space, splits={})
    manifest = read_manifest(folder)
    there = manifest.label_space
    if there.fingerprint != label_space.fingerprint:
        raise UserError(
            f"{manifest.path}: its label space {there.name!r} ({len(there)} classes, fingerprint {there.fingerprint}) "
            f"is not that of the new split, {label_space.name!r} ({len(label_space)} classes, fingerprint "
            f"{label_space.fingerprint}); all splits of a set share one: give both the same classes (an empty class "
            "folder counts), or another output folder"
        )
    return manifest


def add_split(
    manifest: Manifest,
    *,
    split: str,
    shard_folder: str,
    shards: Sequence[str],
    indexes: Sequence[ShardIndex],
    origin: Mapping[str, Any],
) -> Manifest:
    """Write a split's index and put the split into the manifest on disk; returns the new manifest.

    Raises UserError if a label lies outside the label space.
    """
    for shard, index in zip(shards, indexes, strict=True):
        _check_labels(shard, index, manifest.label_space)
    path = manifest.path.with_name(f"{split}.index.npy")
    records = np.concatenate([index.records for index in indexes])
    entry = Split(
        name=split,
        shard_folder=shard_folder,
        shards=tuple(shards),
        shard_lengths=tuple(len(index.records) for index in indexes),
        shard_bytes=tuple(index.num_bytes for index in indexes),
        shard_sha256=tuple(index.sha256 for index in indexes),
        index=path.name,
        index_sha256=_write_index(path, records),
        class_counts=tuple(np.bincount(records["label"], minlength=len(manifest.label_space)).tolist()),
        origin=origin,
    )
    manifest = manifest.with_split(entry)
    write_manifest(manifest)
    return manifest


def _write_index(path: Path, records: Records) -> str:
    buffer = io.BytesIO()
    np.save(buffer, records, allow_pickle=False)
    content = buffer.getvalue()
    write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()


def _check_labels(shard: str, index: ShardIndex, label_space: LabelSpace) -> None:
    labels = index.records["label"]
    outside = (labels < 0) | (labels >= len(label_space))
    if outside.any():
        first = int(outside.argmax())
        raise UserError(
            f"{shard}: label {int(labels[first])} of the image at byte {int(index.records['offset'][first])} is "
            f"outside the label space {label_space.name!r} of {len(label_space)} classes (0 to "
            f"{len(label_space) - 1}); give the right list with --classes"
        )

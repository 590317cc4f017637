"""Indexes and manifests on disk, each whole or not at all; the manifest comes last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hornet.durable import hash_file, replacing
from hornet.errors import UserError
from hornet.shards.index import RECORD, ShardIndex
from hornet.shards.label_report import describe_space
from hornet.shards.label_space import LabelSpace
from hornet.shards.manifest import MANIFEST_NAME, Manifest, Split, read_manifest, write_manifest
from hornet.shards.sample_label import NO_LABEL


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
            f"{manifest.path}: its label space {describe_space(there)} is not that of the new split, "
            f"{describe_space(label_space)}; all splits of a set share one: give both the same --classes (an empty "
            "class folder counts), or another output folder"
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
    """As `put_split`, and write the manifest."""
    manifest = put_split(
        manifest, split=split, shard_folder=shard_folder, shards=shards, indexes=indexes, origin=origin
    )
    write_manifest(manifest)
    return manifest


def put_split(
    manifest: Manifest,
    *,
    split: str,
    shard_folder: str,
    shards: Sequence[str],
    indexes: Sequence[ShardIndex],
    origin: Mapping[str, Any],
) -> Manifest:
    """Write a split's index file and return the manifest with the split in it, not yet on disk.

    Raises UserError if a label lies outside the label space.
    """
    counts = np.zeros(len(manifest.label_space), np.int64)
    for shard, index in zip(shards, indexes, strict=True):
        _check_labels(shard, index, manifest.label_space)
        counts += np.bincount(index.records["label"], minlength=len(counts))
    path = manifest.path.with_name(f"{split}.index.npy")
    entry = Split(
        name=split,
        shard_folder=shard_folder,
        shards=tuple(shards),
        shard_lengths=tuple(len(index.records) for index in indexes),
        shard_bytes=tuple(index.num_bytes for index in indexes),
        shard_sha256=tuple(index.sha256 for index in indexes),
        index=path.name,
        index_sha256=_write_index(path, indexes),
        class_counts=tuple(counts.tolist()),
        origin=origin,
    )
    return manifest.with_split(entry)


def _write_index(path: Path, indexes: Sequence[ShardIndex]) -> str:
    """Write the records one shard after the other, atomically; return the file's SHA-256."""
    num_samples = sum(len(index.records) for index in indexes)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file,
            {"descr": np.lib.format.dtype_to_descr(RECORD), "fortran_order": False, "shape": (num_samples,)},
        )
        for index in indexes:
            file.write(index.records.tobytes())
    return hash_file(path)


def _check_labels(shard: str, index: ShardIndex, label_space: LabelSpace) -> None:
    labels = index.records["label"]
    outside = (labels < 0) | (labels >= len(label_space))
    if outside.any():
        first = int(outside.argmax())
        if labels[first] == NO_LABEL:
            raise UserError(
                f"{shard}: label -1 of the image at byte {int(index.records['offset'][first])} stands for no class; "
                "leave such samples out with `--incomplete skip`"
            )
        raise UserError(
            f"{shard}: label {int(labels[first])} of the image at byte {int(index.records['offset'][first])} is "
            f"outside the label space {label_space.name!r} of {len(label_space)} classes (0 to "
            f"{len(label_space) - 1}); give the right list with --classes"
        )

"""A set in a few lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hornet.quantities import format_bytes
from hornet.shards.manifest import Manifest, Split, fingerprint_split

NUM_NAMED = 2  # largest and smallest classes in a line
BYTE_PERCENTILES = (1, 50, 99)


def describe_set(manifest: Manifest) -> str:
    """Return the text of `launch/shards.py info`: label space, splits, counts, sizes, origins."""
    space = manifest.label_space
    lines = [
        f"set          {manifest.name}  ({manifest.path})",
        f"label space  {space.name}, {len(space)} classes, {space.fingerprint[:16]}: {_excerpt(space.classes)}",
    ]
    for name, split in manifest.splits.items():
        size = sum(split.shard_bytes)
        lines.append(
            f"split        {name}: {split.num_samples} samples in {len(split.shards)} shards, {format_bytes(size)}, "
            f"fingerprint {fingerprint_split(split, space)[:16]}"
        )
    for name, split in manifest.splits.items():
        lines += _describe_classes(name, split, space.classes)
        lines += _describe_bytes(manifest, name, split)
        if split.origin:
            lines.append(f"origin       {name}: {describe_origin(split.origin)}")
    lines += [f"split        {name}: not indexed" for name in manifest.unindexed]
    return "\n".join(lines)


def describe_origin(origin: Mapping[str, Any]) -> str:
    """Return in a line how a split was made, and what was dropped."""
    source = origin.get("source") or (origin.get("plan") or {}).get("source")
    text = str(origin.get("command", "unknown")) + (f" of {source}" if source else "")
    options = origin.get("options")
    if isinstance(options, Mapping) and options:
        text += " (" + ", ".join(f"{key} {value}" for key, value in options.items()) + ")"
    for key, word in (("counts", ""), ("dropped", "dropped ")):
        counts = origin.get(key)
        if isinstance(counts, Mapping) and counts:
            text += "; " + ", ".join(f"{word}{count} {reason}" for reason, count in counts.items())
    return text


def read_image_bytes(manifest: Manifest, split: Split) -> npt.NDArray[np.int64] | None:
    """Return the bytes of each image and its header (0.5 to 1.5 kB) from a split's index; None if there is none.

    Raises ValueError if the index is damaged.
    """
    path = manifest.path.parent / split.index
    if not path.is_file():
        return None
    spans = np.load(path, mmap_mode="r", allow_pickle=False)["span"]
    sizes: npt.NDArray[np.int64] = spans.astype(np.int64)
    return sizes


def _describe_classes(name: str, split: Split, classes: tuple[str, ...]) -> list[str]:
    counts = np.asarray(split.class_counts)
    if len(counts) != len(classes):  # a set made before manifests held them
        return []
    order = np.argsort(-counts, kind="stable")
    largest = ", ".join(f"{classes[label]} {counts[label]}" for label in order[:NUM_NAMED])
    smallest = ", ".join(f"{classes[label]} {counts[label]}" for label in order[::-1][:NUM_NAMED])
    empty = int((counts == 0).sum())
    return [
        f"classes      {name}: {counts.min()} / {np.median(counts):g} / {counts.max()} images a class (fewest, median, "
        f"most); largest {largest}; smallest {smallest}" + (f"; {empty} without images" if empty else "")
    ]


def _describe_bytes(manifest: Manifest, name: str, split: Split) -> list[str]:
    sizes = read_image_bytes(manifest, split)
    if sizes is None:
        return [f"images       {name}: the index {split.index} is missing"]
    values = " / ".join(format_bytes(value) for value in np.percentile(sizes, BYTE_PERCENTILES))
    return [f"images       {name}: {values} an image with its header (1 %, median, 99 %)"]


def _excerpt(classes: tuple[str, ...]) -> str:
    return ", ".join(classes) if len(classes) <= 4 else f"{classes[0]}, {classes[1]}, ..., {classes[-1]}"

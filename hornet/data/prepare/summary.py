"""A set in a few lines of text."""

from __future__ import annotations

from hornet.data.manifest import Manifest, fingerprint_split


def describe_set(manifest: Manifest) -> str:
    """Return the text of `launch/shards.py info`: label space, splits, counts, sizes."""
    space = manifest.label_space
    lines = [
        f"set          {manifest.name}  ({manifest.path})",
        f"label space  {space.name}, {len(space)} classes, {space.fingerprint[:16]}: {_excerpt(space.classes)}",
    ]
    for name, split in manifest.splits.items():
        size = sum(split.shard_bytes)
        lines.append(
            f"split        {name}: {split.num_samples} samples in {len(split.shards)} shards, {_format_bytes(size)}, "
            f"fingerprint {fingerprint_split(split, space)[:16]}"
        )
    lines += [f"split        {name}: not indexed" for name in manifest.unindexed]
    return "\n".join(lines)


def _excerpt(classes: tuple[str, ...]) -> str:
    return ", ".join(classes) if len(classes) <= 4 else f"{classes[0]}, {classes[1]}, ..., {classes[-1]}"


def _format_bytes(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.4g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.4g} TB"

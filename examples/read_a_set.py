"""Samples of a set by their number, without reading what lies before: python examples/read_a_set.py SET."""

import sys
from collections import Counter
from pathlib import Path

from hornet.shards.decode import decode_image
from hornet.shards.reader import ShardReader
from hornet.shards.shard_set import open_shards


def describe(folder: Path, *, split: str = "train") -> list[str]:
    """Return a line for every hundredth sample, and the sizes of the classes."""
    shards = open_shards(folder, split)
    labels = shards.records["label"].tolist()
    reader = ShardReader(shards)
    lines = []
    for number in range(0, shards.num_samples, 100):
        sample = reader.read(number)
        width, height = decode_image(sample.image).size
        lines.append(f"{number:8} {sample.key}: {width} x {height}, label {labels[number]}")
    reader.close()
    sizes = Counter(labels).values()
    return [*lines, f"{len(sizes)} classes, {min(sizes)} to {max(sizes)} samples each"]


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/read_a_set.py SET")
    print("\n".join(describe(Path(sys.argv[1]))))

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
    reader, labels = ShardReader(shards), shards.records["label"].tolist()
    lines = []
    for number in range(0, shards.num_samples, 100):
        sample = reader.read(number)
        image = decode_image(sample.image)
        lines.append(
            f"{number:8} {sample.key}: {image.width} x {image.height}, label {shards.records['label'][number]}"
        )
    reader.close()
    sizes = Counter(shards.records["label"].tolist())
    return [*lines, f"{len(sizes)} classes, {min(sizes.values())} to {max(sizes.values())} samples each"]


if __name__ == "__main__":
    print("\n".join(describe(Path(sys.argv[1]))))

"""The trainer's own stream in a loop of one's own: python examples/stream_images.py SET."""

import sys
from pathlib import Path

from hornet.data.loader import open_train_stream


def train(
    place: str | Path, *, rank: int = 0, num_ranks: int = 1, first_step: int = 0, num_steps: int = 3
) -> list[str]:
    """Return the keys of the samples, which were cropped, mirrored and batched."""
    stream = open_train_stream(place, image_size=32, global_batch_size=8, rank=rank, num_ranks=num_ranks)
    seen: list[str] = []
    for batch in stream.iterate(first_step, num_steps):
        _images, _labels = batch.images_bchw.float() / 255, batch.labels  # (B, 3, 32, 32), (B,)
        seen += batch.keys
    stream.close()
    return seen


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/stream_images.py SET")
    print("\n".join(train(sys.argv[1])))

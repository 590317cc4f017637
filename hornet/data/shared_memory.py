"""What workers' batches take in /dev/shm, through which they hand them over, and whether there is room.

Where a container has too little (Docker gives 64 MB), a worker that writes dies of SIGBUS, without a word of its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hornet.errors import UserError

SHARED_MEMORY = Path("/dev/shm")
PAGE_BYTES = 4096
SMALL_TENSORS = 4
"""Labels, boxes, hashes and flags of a batch: a page each."""

REMEDY = (
    "give the container more (docker run --shm-size=8g or --ipc=host; in Kubernetes an emptyDir of medium Memory on "
    "/dev/shm), or set num_workers (of data and of evaluation) to fewer, or to 0, which needs none"
)


def count_batch_bytes(batch_size: int, *, bytes_per_image: int) -> int:
    """Return what one batch takes: images, and small tensors of 16 bytes an image at most."""
    sizes = [batch_size * bytes_per_image, *[16 * batch_size] * SMALL_TENSORS]
    return sum(-(-size // PAGE_BYTES) * PAGE_BYTES for size in sizes)


def require_shared_memory(
    bytes_of_streams: Sequence[int], *, num_local_ranks: int, folder: Path = SHARED_MEMORY
) -> None:
    """Raise UserError if /dev/shm has less room than the streams of all ranks of this node may take there."""
    needed = num_local_ranks * sum(bytes_of_streams)
    if needed == 0 or not folder.exists():
        return
    state = os.statvfs(folder)
    free = state.f_frsize * state.f_bavail
    if state.f_blocks and free < needed:  # a tmpfs without a limit has no blocks
        raise UserError(
            f"{folder} has {format_megabytes(free)} free, and the batches of this node's workers may take "
            f"{format_megabytes(needed)} there: {REMEDY}"
        )


def format_megabytes(num_bytes: int) -> str:
    """Return `64 MB`; a part of one counts as one."""
    return f"{-(-num_bytes // 2**20)} MB"

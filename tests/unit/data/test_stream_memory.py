"""More epochs need no more memory, in the training process and in its workers."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import re
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hornet.batch import Batch
from hornet.data import loader
from hornet.data.config import StreamConfig, TransformConfig
from hornet.data.loader import open_train_stream
from hornet.data.pipeline import Failure, Pick, TrainBatches
from tests.unit.shards.making import make_set, rank_of

NUM_SAMPLES = 480
TOLERANCE = 4 * 2**20
"""Bytes that 3,840 samples may add: a leak of 1,100 bytes a sample is found."""
NUM_WINDOWS = 3
"""How often 8 epochs are looked at: what an allocator keeps ends some time, a leak does not."""

pytestmark = pytest.mark.slow


PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


class LeakyBatches(TrainBatches):
    """Keeps 4 KiB of each sample."""

    _kept: list[mmap.mmap] = []  # noqa: RUF012  all instances leak into it

    def __getitems__(self, picks: Sequence[Pick]) -> Batch | Failure:
        self._kept.append(mmap.mmap(-1, 4096 * len(picks), flags=PRIVATE))  # the heap may have room
        self._kept[-1].write(os.urandom(4096 * len(picks)))
        return super().__getitems__(picks)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("memory"), num_shards=20, samples_per_shard=NUM_SAMPLES // 20)


def measure_growth(folder: Path, *, num_workers: int) -> Generator[int]:
    """Yield by how many bytes this process and its workers grow over 8 epochs, behind the first 2, again and again."""
    transform = TransformConfig(image_size=32, flip_probability=0.5, rand_augment="rand-m9-n1", erase_probability=0.5)
    config = StreamConfig(shards=folder, shuffle_window_shards=4, num_workers=num_workers, transform=transform)
    stream = open_train_stream(config, world=rank_of(0, 1), seed=0, global_batch_size=48, micro_batch_size=48)
    with closing(stream):
        sizes = []
        for epoch in range(1, 3 + 8 * NUM_WINDOWS):
            for _ in stream.iterate((epoch - 1) * 10, 10):
                pass
            if epoch % 8 == 2:
                sizes.append(sum(map(measure, [os.getpid(), *list_workers()])))
                yield from [sizes[-1] - sizes[-2]] if epoch > 2 else []


def list_workers() -> list[int]:
    return [child.pid for child in multiprocessing.active_children() if child.pid is not None]


def measure(pid: int) -> int:
    """A process's anonymous memory in bytes; pages shared with forked children count in parts (PSS)."""
    match: Any = re.search(r"^Pss_Anon: +(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(match.group(1)) * 1024


@pytest.mark.parametrize("num_workers", [0, 2])
def test_memory_does_not_grow(shards: Path, num_workers: int) -> None:
    grown = []
    with closing(measure_growth(shards, num_workers=num_workers)) as windows:
        for growth in windows:
            grown.append(growth)
            if growth < TOLERANCE:
                return
    pytest.fail(f"grew by {grown} bytes")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_leak_would_be_found(shards: Path, num_workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurement above can fail."""
    monkeypatch.setattr(loader, "TrainBatches", LeakyBatches)
    try:
        assert min(measure_growth(shards, num_workers=num_workers)) > 2 * TOLERANCE
    finally:
        LeakyBatches._kept.clear()

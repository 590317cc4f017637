"""How fast a set streams on this machine, and how many cores that takes: the training stream itself, timed."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from tqdm import tqdm

from hornet.data.augment.sampling import unchanged_randomness
from hornet.data.augment.transforms import TrainTransform
from hornet.data.config import StreamConfig
from hornet.data.loader import open_train_stream
from hornet.data.pipeline import load_image
from hornet.errors import UserError
from hornet.shards.reader import ShardReader
from hornet.shards.shard_set import open_shards
from hornet.world import ALONE

NUM_WARM_UP_BATCHES = 2
NUM_SAMPLED = 256


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What one number of workers gave."""

    num_workers: int
    images_per_second: float
    """As they reached the training process."""
    cpu_seconds_per_image: float
    """Of workers and training process together."""


@dataclass(frozen=True, kw_only=True)
class SpeedReport:
    """How fast a set streamed with each number of workers."""

    speeds: Sequence[Speed]
    read_seconds_per_image: float
    """Of one process: bytes from the tar, header and checksum checked."""
    transform_seconds_per_image: float
    """Of one process: decoding and augmentation."""
    bytes_per_image: float
    """Bytes of the tars read for an image, headers included."""

    @property
    def cpu_seconds_per_image(self) -> float:
        """The least that was met: what an image costs when workers do not wait for each other."""
        return min(speed.cpu_seconds_per_image for speed in self.speeds)


def measure_speed(
    config: StreamConfig, *, batch_size: int, seconds: float, worker_counts: Sequence[int]
) -> SpeedReport:
    """Stream `config`'s set for about `seconds` with each number of workers. Raises UserError."""
    if batch_size < 1 or seconds <= 0 or not worker_counts or min(worker_counts) < 0:
        raise UserError("bench: the batch, the seconds and the workers must be more than 0 (0 workers are allowed)")
    read, transform = _measure_parts(config)
    shards = open_shards(config.shards, config.split, index=config.index)
    speeds = []
    for num_workers in tqdm(worker_counts, desc="streaming", unit=" settings", disable=None):
        speeds.append(_measure(replace(config, num_workers=num_workers), batch_size=batch_size, seconds=seconds))
    return SpeedReport(
        speeds=speeds,
        read_seconds_per_image=read,
        transform_seconds_per_image=transform,
        bytes_per_image=float(shards.records["span"].mean(dtype=np.float64)),
    )


def describe_speed(report: SpeedReport, *, images_per_second: float, num_gpus: int, num_cores: int) -> str:
    """Return the report as lines of text, and what it takes to feed `num_gpus` at `images_per_second` each."""
    lines = ["workers   images/s   CPU ms an image"]
    lines += [
        f"{speed.num_workers:7d} {speed.images_per_second:10.0f} {speed.cpu_seconds_per_image * 1e3:17.2f}"
        for speed in report.speeds
    ]
    cost = report.cpu_seconds_per_image
    rate = images_per_second * num_gpus
    lines += [
        f"one process: reading {report.read_seconds_per_image * 1e3:.2f} ms an image, "
        f"decoding and augmenting {report.transform_seconds_per_image * 1e3:.2f} ms",
        f"{num_gpus} GPU{'s' if num_gpus > 1 else ''} at {images_per_second:g} images/s: {rate * cost:.1f} cores, "
        f"{rate * report.bytes_per_image / 1e6:.0f} MB/s from the shards; this machine has {num_cores} "
        f"core{'s' if num_cores > 1 else ''}, good for {num_cores / cost:.0f} images/s at most",
        "(the last figure comes from the CPU time of an image; a machine that is busy with other things gives less)",
    ]
    if rate * cost > num_cores:
        lines.append("these cores do not feed them; smaller images (build --max-short-edge) or more cores would")
    else:
        lines.append(f"set data.num_workers to {math.ceil(images_per_second * cost)} or more (workers of each rank)")
    return "\n".join(lines)


def _measure(config: StreamConfig, *, batch_size: int, seconds: float) -> Speed:
    num_first = NUM_WARM_UP_BATCHES + config.num_workers  # from each worker one, at least
    workers_before = _read_cpu_seconds(resource.RUSAGE_CHILDREN)
    stream = open_train_stream(config, world=ALONE, seed=0, global_batch_size=batch_size, micro_batch_size=batch_size)
    with closing(stream):
        batches = stream.iterate(0, 2**31)
        for _ in range(num_first):
            next(batches)
        before, started = _read_cpu_seconds(resource.RUSAGE_SELF), time.perf_counter()
        num_batches = 0
        while time.perf_counter() < started + seconds:
            next(batches)
            num_batches += 1
        elapsed = time.perf_counter() - started
        main = _read_cpu_seconds(resource.RUSAGE_SELF) - before
    workers = _read_cpu_seconds(resource.RUSAGE_CHILDREN) - workers_before  # known when they have ended
    num_made = num_first + num_batches + config.num_workers * config.prefetch  # those under way at the end, about
    return Speed(
        num_workers=config.num_workers,
        images_per_second=num_batches * batch_size / elapsed,
        cpu_seconds_per_image=(main / num_batches + workers / num_made) / batch_size,
    )


def _measure_parts(config: StreamConfig) -> tuple[float, float]:
    shards = open_shards(config.shards, config.split, index=config.index)
    transform = TrainTransform(config.transform)
    samples = range(min(NUM_SAMPLED, shards.num_samples))
    with closing(ShardReader(shards)) as reader, unchanged_randomness():

        def load() -> None:
            for sample in samples:
                load_image(reader, sample, partial(transform, key=(0, 0, sample)))

        def read() -> None:
            for sample in samples:
                reader.read(sample)

        load()  # files come into memory, code is loaded
        reading, loading = _time(read), _time(load)
    return reading / len(samples), (loading - reading) / len(samples)


def _time(function: Callable[[], None]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _read_cpu_seconds(whose: int) -> float:
    """Return the user and system time of this process, or of its ended children."""
    usage = resource.getrusage(whose)
    return usage.ru_utime + usage.ru_stime

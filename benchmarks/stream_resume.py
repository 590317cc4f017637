"""The time to the first batch, at 90 % of an epoch against at its start, of our stream and of webdataset's."""

from __future__ import annotations

import io
import random
import statistics
import tarfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import webdataset
from torch.utils.data import DataLoader

from benchmarks.shards import make_images
from hornet.data.augment.transforms import TrainTransform
from hornet.data.config import StreamConfig, TransformConfig
from hornet.data.loader import open_train_stream
from hornet.data.order import Order
from hornet.shards.indexing.index_set import IndexPlan, index_folder
from hornet.world import ALONE

BATCH_SIZE = 64
RESUME_AT = 0.9
TRANSFORM = TransformConfig(image_size=224, flip_probability=0.5, rand_augment="rand-m9-mstd0.5-inc1")
NUM_IMAGES = 200
"""Different ones; the tars hold them again and again."""

Start = Callable[[float, int], float]
"""Called with a share of the epoch and a number of workers: seconds to the first batch from there."""


def measure_resume(folder: Path, *, num_shards: int, samples_per_shard: int, num_rounds: int) -> None:
    """Make a set, then start ours and webdataset's at both places in turn, with and without workers."""
    shards = folder / "shards"
    make_set(shards, num_shards=num_shards, samples_per_shard=samples_per_shard, images=folder / "images")
    tars = sorted(str(path) for path in shards.glob("*.tar"))
    num_samples = num_shards * samples_per_shard
    num_gb = sum(Path(tar).stat().st_size for tar in tars) / 1e9
    print(f"{num_shards} shards of {samples_per_shard} images, {num_gb:.2f} GB; first batch of {BATCH_SIZE}")
    starts: dict[str, Start] = {
        "ours": lambda share, workers: start_ours(shards, step=int(share * num_samples) // BATCH_SIZE, workers=workers),
        "webdataset": lambda share, workers: start_webdataset(tars, skip=int(share * num_samples), workers=workers),
    }
    for num_workers in (0, 2):
        compare(starts, num_workers=num_workers, num_rounds=num_rounds)
    compare_orders()


def compare(starts: dict[str, Start], *, num_workers: int, num_rounds: int) -> None:
    """Print seconds and the ratios of each round: median, lowest, highest."""
    seconds: dict[tuple[str, float], list[float]] = {(name, at): [] for name in starts for at in (0.0, RESUME_AT)}
    for number in range(num_rounds + 1):
        for (name, at), found in seconds.items():
            taken = starts[name](at, num_workers)
            if number > 0:  # the first round warms up
                found.append(taken)
    print(f"{num_workers} workers, {num_rounds} rounds")
    for (name, at), found in seconds.items():
        print(f"  {name:<10} at {at:4.0%}   {statistics.median(found):.3f} s ({min(found):.3f} to {max(found):.3f})")
    for name in starts:
        print(f"  {name}: {describe_ratio(seconds[name, RESUME_AT], seconds[name, 0.0])} of the time at 0 %")
    theirs = describe_ratio(seconds["webdataset", RESUME_AT], seconds["ours", RESUME_AT])
    print(f"  webdataset against ours at {RESUME_AT:.0%}: {theirs}", flush=True)


def describe_ratio(ones: list[float], others: list[float]) -> str:
    """Return the median and the range of paired ratios, as text."""
    ratios = [one / other for one, other in zip(ones, others, strict=True)]
    return f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"


def start_ours(shards: Path, *, step: int, workers: int) -> float:
    """Open a stream and wait for its first batch at `step`."""
    config = StreamConfig(shards=shards, shuffle_window_shards=64, num_workers=workers, transform=TRANSFORM)
    started = time.perf_counter()
    stream = open_train_stream(config, world=ALONE, seed=0, global_batch_size=BATCH_SIZE, micro_batch_size=BATCH_SIZE)
    assert len(next(iter(stream.iterate(step, 4)))) == BATCH_SIZE
    seconds = time.perf_counter() - started
    stream.close()
    return seconds


def start_webdataset(tars: list[str], *, skip: int, workers: int) -> float:
    """Open webdataset's usual pipeline and wait for its first batch after `skip` samples.

    The cheapest way it has to a given place: samples are passed over as they leave the shuffle buffer, before anything
    is decoded; each worker passes over its share. Decoding and transform are ours, so only the way there differs.
    """
    transform = TrainTransform(TRANSFORM)
    share = skip // max(1, workers)

    def pass_over(samples: Iterable[Any]) -> Iterator[Any]:
        return islice(iter(samples), share, None)

    def make(sample: dict[str, Any]) -> Any:
        return transform(sample["jpg"], key=(0, 0, 0)), int(sample["cls"])

    started = time.perf_counter()
    dataset = webdataset.WebDataset(tars, shardshuffle=len(tars), seed=0)
    dataset = dataset.shuffle(1000, rng=random.Random(0)).compose(pass_over).map(make).batched(BATCH_SIZE)
    loader = iter(DataLoader(dataset, batch_size=None, num_workers=workers, multiprocessing_context=_fork(workers)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(next(loader)[0]) == BATCH_SIZE
    seconds = time.perf_counter() - started
    del loader
    return seconds


def _fork(workers: int) -> str | None:
    return "fork" if workers else None


def compare_orders() -> None:
    """Print what finding a place costs by itself, at the size of ImageNet-22K and a global batch of 4,096."""
    for num_shards, window in ((1_420, 64), (14_200, 64), (1_420, 1_420)):
        lengths = [14_200_000 // num_shards] * num_shards
        steps = 14_200_000 // 4096
        seconds: dict[float, list[float]] = {0.0: [], RESUME_AT: []}
        for _ in range(5):
            for at, found in seconds.items():
                started = time.perf_counter()
                order = Order(
                    shard_lengths=lengths,
                    seed=0,
                    shuffle_window_shards=window,
                    global_batch_size=4096,
                    partial_batch="drop",
                )
                order.pick(step=int(at * steps), start=0, stop=64)
                found.append(time.perf_counter() - started)
        places = ", ".join(f"at {at:.0%} {1000 * statistics.median(found):.1f} ms" for at, found in seconds.items())
        print(f"order alone, 14.2 M samples in {num_shards} shards, window {window}: {places}", flush=True)


def make_set(folder: Path, *, num_shards: int, samples_per_shard: int, images: Path) -> None:
    """Write tars of photo-like JPEGs and index them with checksums."""
    make_images(images, NUM_IMAGES)
    contents = [path.read_bytes() for path in sorted(images.glob("*/*.jpg"))]
    folder.mkdir()
    for shard in range(num_shards):
        with tarfile.open(folder / f"set-{shard:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number in range(samples_per_shard):
                stem = f"{shard:06d}{number:06d}"
                _add(tar, f"{stem}.cls", str(number % 20).encode())
                _add(tar, f"{stem}.jpg", contents[number % len(contents)])
    plan = IndexPlan(
        folder=folder, output=folder, split="train", pattern="*.tar", classes=None, name="set", checksums=True
    )
    index_folder(plan)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))

"""CPU time a training image costs, main process and workers together: ours against the ways in use, in one run.

  python -m benchmarks.loaders

Beside ours: torchvision's ImageFolder with timm's transform (the original HorNet's way), and webdataset with its
decoder and timm's transform. Same images (about 480 x 400, 84 kB JPEG), same recipe (crop, flip, RandAugment,
erasing), batches of 64. The two normalise and erase on the CPU, as they do in use; ours hands over uint8 and does both
on the device. A row says what ours costs when it does these on the CPU too. Rounds are interleaved; what is printed
are medians of paired ratios.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import tempfile
from collections.abc import Callable, Iterable
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import webdataset
from timm.data.transforms_factory import create_transform
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from benchmarks.shards import make_images
from hornet.data.augment import jpeg as regions
from hornet.data.augment.mixing import prepare
from hornet.data.config import MixingConfig, StreamConfig, TransformConfig
from hornet.data.loader import TrainStream, open_train_stream
from hornet.shards.build.build import build
from hornet.shards.build.image import ImageOptions
from hornet.shards.build.plan import BuildPlan
from hornet.shards.processes import count_cores
from hornet.world import ALONE

BATCH_SIZE = 64
NUM_CLASSES = 20
RAND_AUGMENT = "rand-m9-mstd0.5-inc1"


def main() -> None:
    """Make the images, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1536, metavar="N", help="a round (1536)")
    parser.add_argument("--repeat", type=int, default=6, metavar="N", help="rounds (6)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], metavar="N", help="workers to try (0 2)")
    parser.add_argument("--folder", type=Path, help="where temporary files go (default: the system's)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    libraries = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "torchvision", "timm", "pillow", "webdataset")
    )
    print(f"{platform.machine()}, {count_cores()} cores, Python {platform.python_version()}, {libraries}")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        make_images(folder / "images", options.images)
        build(
            BuildPlan(
                source=folder / "images",
                output=folder / "shards",
                name="set",
                samples_per_shard=256,
                image=ImageOptions(check="header"),
            )
        )
        for num_workers in options.workers:
            compare(folder, num_workers=num_workers, num_rounds=options.repeat, num_images=options.images)


def compare(folder: Path, *, num_workers: int, num_rounds: int, num_images: int) -> None:
    """Print a table: CPU ms an image, and how many times less ours takes."""
    num_batches = num_images // BATCH_SIZE
    loaders: dict[str, Callable[[], Iterable[Any]]] = {
        "ImageFolder + timm (the original's)": lambda: load_folder(folder, num_workers),
        "webdataset + timm": lambda: load_webdataset(folder, num_workers, num_batches),
        "ours, backend pil": lambda: load_ours(folder, num_workers, num_batches, backend="pil"),
        "ours, normalised and erased on the CPU": lambda: load_ours(folder, num_workers, num_batches, is_prepared=True),
        "ours, wheels alone": lambda: load_ours(folder, num_workers, num_batches, has_native=False),
        "ours": lambda: load_ours(folder, num_workers, num_batches),
    }
    times: dict[str, list[float]] = {name: [] for name in loaders}
    for number in range(num_rounds + 1):
        for name, make in loaders.items():
            spent = measure(make, num_batches)
            if number:  # the first is a warm-up
                times[name].append(spent / (num_batches * BATCH_SIZE) * 1e3)
    print(f"\n{num_workers} workers: CPU ms an image; ours takes so many times less (range)")
    for name, found in times.items():
        ratios = [other / ours for other, ours in zip(found, times["ours"], strict=True)]
        print(
            f"  {name:40s} {statistics.median(found):6.2f}  {statistics.median(ratios):5.2f}x "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


def measure(make: Callable[[], Iterable[Any]], num_batches: int) -> float:
    """Return the CPU seconds of an epoch, with those of workers, which end within."""
    before = read_cpu_seconds()
    count = sum(1 for _ in make())
    if count != num_batches:
        raise RuntimeError(f"{count} batches came, not {num_batches}")
    return read_cpu_seconds() - before


def read_cpu_seconds() -> float:
    """Return user and system time of this process and of its ended children."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def make_timms_transform() -> Any:
    """Make the original's training transform, which leaves its colour jitter out when RandAugment is on."""
    return create_transform(
        224,
        is_training=True,
        color_jitter=0.4,
        auto_augment=RAND_AUGMENT,
        interpolation="bicubic",
        re_prob=0.25,
        re_mode="pixel",
    )


def load_folder(folder: Path, num_workers: int) -> Iterable[Any]:
    """Load as the original does."""
    images = ImageFolder(str(folder / "images"), transform=make_timms_transform())
    yield from DataLoader(images, BATCH_SIZE, shuffle=True, num_workers=num_workers, drop_last=True)


def load_webdataset(folder: Path, num_workers: int, num_batches: int) -> Iterable[Any]:
    """Load with webdataset's usual chain."""
    transform = make_timms_transform()
    shards = sorted(str(path) for path in (folder / "shards").glob("*.tar"))
    images = (
        webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0)
        .shuffle(1000)
        .decode("pil")
        .to_tuple("jpg", "cls")
        .map_tuple(transform, lambda label: label)
        .batched(BATCH_SIZE // 2, partial=False)
    )
    loader = webdataset.WebLoader(images, batch_size=None, num_workers=num_workers)
    yield from loader.unbatched().batched(BATCH_SIZE).with_epoch(num_batches)


def load_ours(
    folder: Path,
    num_workers: int,
    num_batches: int,
    *,
    backend: str = "fast",
    is_prepared: bool = False,
    has_native: bool = regions.HAS_NATIVE,
) -> Iterable[Any]:
    """Load with our stream; without `has_native` as where jpeg_region.c was not built."""
    regions.HAS_NATIVE = has_native
    with closing(open_stream(folder, num_workers, backend=backend)) as stream:
        for number, batch in enumerate(stream.iterate(0, num_batches)):
            if is_prepared:
                prepare(batch, config=MixingConfig(), num_classes=NUM_CLASSES, device=torch.device("cpu"), seed=number)
            yield batch


def open_stream(folder: Path, num_workers: int, *, backend: str) -> TrainStream:
    """Open our stream with the recipe."""
    config = StreamConfig(
        shards=folder / "shards",
        num_workers=num_workers,
        transform=TransformConfig(
            image_size=224,
            flip_probability=0.5,
            rand_augment=RAND_AUGMENT,
            erase_probability=0.25,
            backend=backend,  # type: ignore[arg-type]
        ),
    )
    return open_train_stream(config, world=ALONE, seed=0, global_batch_size=BATCH_SIZE, micro_batch_size=BATCH_SIZE)


if __name__ == "__main__":
    main()

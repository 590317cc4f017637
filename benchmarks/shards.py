"""Making shards, against the plain ways of doing it: ratios of two things measured in one run.

  python -m benchmarks.shards build     folders -> tars: ours against a loop with webdataset's ShardWriter
  python -m benchmarks.shards index     a tar of 10,000 samples: ours against iterating it with webdataset
  python -m benchmarks.shards memory    14 million images: peak memory of everything `build` does beside copying

Images are made up: noise over gradients, about 480 x 400 and 90 kB each as JPEG, as those of ImageNet-22K.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import random
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.many_images import arrange_many
from hornet.shards.build.build import build
from hornet.shards.build.image import ImageOptions
from hornet.shards.build.plan import BuildPlan
from hornet.shards.index import index_tar
from hornet.shards.processes import count_cores

NUM_CLASSES = 20
SHORT_EDGE = 256
QUALITY = 90


def main() -> None:
    """Run one of the measurements in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["build", "index", "memory"])
    parser.add_argument("--images", type=int, default=2000, metavar="N", help="for build (2000)")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="pairs of runs (5)")
    parser.add_argument("--workers", type=int, default=count_cores(), metavar="N", help="ours; default one a core")
    parser.add_argument("--folder", type=Path, help="where temporary files go (default: the system's)")
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {count_cores()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        {"build": measure_build, "index": measure_index, "memory": measure_memory}[options.what](options, Path(name))


def measure_build(options: argparse.Namespace, folder: Path) -> None:
    """Compare whole builds, wall clock, interleaved."""
    source = folder / "source"
    make_images(source, options.images)
    cases = {
        "copy": ImageOptions(check="header"),
        "copy, decoding every image to check it": ImageOptions(check="decode"),
        f"short edge {SHORT_EDGE}, JPEG {QUALITY}": ImageOptions(max_short_edge=SHORT_EDGE, quality=QUALITY),
    }
    for name, image in cases.items():
        shrink = image.max_short_edge is not None

        def ours(image: ImageOptions = image) -> None:
            plan = BuildPlan(
                source=source,
                output=folder / "ours",
                name="set",
                samples_per_shard=250,
                image=image,
                num_workers=options.workers,
            )
            build(plan)

        def plain(shrink: bool = shrink) -> None:
            write_plainly(source, folder / "plain", shrink=shrink)

        compare(name, ours, plain, options=options, outputs=[folder / "ours", folder / "plain"], unit=options.images)


def write_plainly(source: Path, output: Path, *, shrink: bool) -> None:
    """Write what anybody would: a shuffled loop with webdataset's own writer."""
    import webdataset  # brings torch, which would count as memory of ours

    output.mkdir()
    labels = {path.name: label for label, path in enumerate(sorted(source.iterdir()))}
    paths = sorted(source.glob("*/*.jpg"))
    random.Random(0).shuffle(paths)
    with webdataset.ShardWriter(str(output / "set-%06d.tar"), maxcount=250, verbose=0) as writer:
        for path in paths:
            content = path.read_bytes()
            if shrink:
                content = _shrink(content)
            writer.write({"__key__": path.stem, "jpg": content, "cls": labels[path.parent.name]})


def _shrink(content: bytes) -> bytes:
    image = Image.open(io.BytesIO(content)).convert("RGB")
    scale = SHORT_EDGE / min(image.size)
    if scale < 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def measure_index(options: argparse.Namespace, folder: Path) -> None:
    """Compare indexing a tar of 10,000 samples with reading it."""
    import webdataset

    tar = folder / "set.tar"
    chance = np.random.default_rng(0)
    with webdataset.TarWriter(str(tar)) as writer:
        for number in range(10_000):
            image = chance.bytes(int(chance.integers(2_000, 90_000)))
            writer.write({"__key__": f"n{number:08d}_{number}", "jpg": image, "cls": number % 1000, "json": {"a": 1}})

    def ours() -> None:
        assert len(index_tar(tar, checksums=False).records) == 10_000

    def plain() -> None:
        assert sum(1 for _ in webdataset.WebDataset(str(tar), shardshuffle=False)) == 10_000

    compare("index of 10,000 samples", ours, plain, options=options, outputs=[], unit=10_000)


def measure_memory(options: argparse.Namespace, folder: Path) -> None:
    """Arrange and finish a build of 14 million images that are not there, and say the peak memory."""
    print(json.dumps(arrange_many(folder)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory  {peak:.0f} MiB")


def compare(
    name: str,
    ours: Callable[[], None],
    plain: Callable[[], None],
    *,
    options: argparse.Namespace,
    outputs: list[Path],
    unit: int,
) -> None:
    """Run both alternately and print the median of the paired ratios, with the range."""
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(options.repeat + 1):
        for label, run in (("ours", ours), ("plain", plain)):
            for output in outputs:
                shutil.rmtree(output, ignore_errors=True)
            start = time.perf_counter()
            run()
            times[label].append(time.perf_counter() - start)
    for label in times:
        times[label] = times[label][1:]  # the first of each warms up
    ratios = [theirs / mine for mine, theirs in zip(times["ours"], times["plain"], strict=True)]
    rates = {label: unit / statistics.median(found) for label, found in times.items()}
    print(
        f"{name}: {statistics.median(ratios):.2f}x the plain way ({min(ratios):.2f} to {max(ratios):.2f}, "
        f"{len(ratios)} pairs); ours {rates['ours']:.0f}/s, plain {rates['plain']:.0f}/s"
    )


def make_images(folder: Path, count: int) -> None:
    """Make class folders of photo-like JPEGs."""
    chance = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"class_{number % NUM_CLASSES:02d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        width, height = int(chance.integers(400, 560)), int(chance.integers(330, 470))
        coarse = Image.fromarray(chance.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((width, height))
        grain = chance.normal(0, 14, (height, width, 1))
        image = np.clip(np.asarray(coarse, float) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(image).save(path, quality=88)


if __name__ == "__main__":
    main()

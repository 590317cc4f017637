"""The stage for webdataset's pipelines against webdataset's usual chain, with the same stages behind both, in one run.

  python -m benchmarks.whole_samples

CPU time of one process a sample, of tars in the page cache: samples as they are (reading alone), and with images
decoded, resized and batched; samples of two members (an image of about 84 kB) and with 16 small ones more. Then the
time to the first batch at 90 % of an epoch. Rounds are interleaved; what is printed are medians of paired ratios.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import webdataset
from torchvision.transforms.v2.functional import pil_to_tensor

from benchmarks.shards import make_images
from hornet.data.step_loader import SamplePipeline
from hornet.data.webdataset import TrainSamples
from hornet.shards.processes import count_cores

BATCH_SIZE = 64
SAMPLES_PER_SHARD = 128
RESUME_AT = 0.9


def main() -> None:
    """Make the tars, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1536, metavar="N", help="an epoch (1536)")
    parser.add_argument("--repeat", type=int, default=7, metavar="N", help="rounds (7)")
    parser.add_argument("--folder", type=Path, help="where temporary files go (default: the system's)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "pillow", "webdataset"))
    print(f"{platform.machine()}, {count_cores()} cores, Python {platform.python_version()}, {libraries}")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        make_images(folder / "images", options.samples)
        for num_small in (0, 16):
            tars = write_tars(folder, num_small)
            compare(tars, folder / "index", num_samples=options.samples, num_rounds=options.repeat, num_small=num_small)


def write_tars(folder: Path, num_small: int) -> list[str]:
    """Write the images with a label and `num_small` more members each."""
    images = sorted((folder / "images").rglob("*.jpg"))
    small = {f"field{number:02d}.txt": b"a few words, as captions are" * 4 for number in range(num_small)}
    pattern = str(folder / f"small{num_small}-%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=SAMPLES_PER_SHARD, verbose=0) as writer:
        for number, path in enumerate(images):
            writer.write({"__key__": f"s{number:06d}", "jpg": path.read_bytes(), "cls": number % 20, **small})
    return sorted(map(str, folder.glob(f"small{num_small}-*.tar")))


def start_ours(tars: list[str], index: Path, stages: list[Any], *, share: float) -> Iterator[Any]:
    """Begin with our stage at a share of an epoch."""
    source = TrainSamples(tars, global_batch_size=BATCH_SIZE, rank=0, num_ranks=1, index=index)
    source.load_state_dict({"step": int(share * source.steps_per_epoch)})
    return iter(SamplePipeline(source, *stages))


def start_webdataset(tars: list[str], stages: list[Any], *, skip: int) -> Iterator[Any]:
    """Begin with webdataset's usual chain, and pass over `skip` samples before any is decoded."""
    source = [webdataset.SimpleShardList(tars), webdataset.shuffle(len(tars)), webdataset.tarfile_to_samples()]
    source += [webdataset.shuffle(1000), webdataset.slice(skip, None)]
    return iter(webdataset.DataPipeline(*source, *stages))


def make_stages() -> list[Any]:
    """Return what stands behind both."""
    return [
        webdataset.decode("pilrgb"),
        webdataset.to_tuple("jpg", "cls"),
        webdataset.map_tuple(lambda image: pil_to_tensor(image.resize((224, 224))), int),
        webdataset.batched(BATCH_SIZE),
    ]


def compare(tars: list[str], index: Path, *, num_samples: int, num_rounds: int, num_small: int) -> None:
    """Print what each costs."""
    num_batches = num_samples // BATCH_SIZE
    whole = num_batches * BATCH_SIZE
    skip = int(RESUME_AT * num_batches) * BATCH_SIZE
    print(f"\n{num_small + 2} members a sample, {len(tars)} tars")
    _measure(
        "CPU ms a sample, samples as they are",
        lambda: islice(start_ours(tars, index, [], share=0), whole),
        lambda: islice(start_webdataset(tars, [], skip=0), whole),
        clock=time.process_time,
        divisor=whole / 1e3,
        num_rounds=num_rounds,
    )
    _measure(
        "CPU ms a sample, decoded, resized, batched",
        lambda: islice(start_ours(tars, index, make_stages(), share=0), num_batches),
        lambda: islice(start_webdataset(tars, make_stages(), skip=0), num_batches),
        clock=time.process_time,
        divisor=whole / 1e3,
        num_rounds=num_rounds,
    )
    _measure(
        f"seconds to the first batch at {RESUME_AT:.0%} of an epoch",
        lambda: islice(start_ours(tars, index, make_stages(), share=RESUME_AT), 1),
        lambda: islice(start_webdataset(tars, make_stages(), skip=skip), 1),
        clock=time.perf_counter,
        divisor=1,
        num_rounds=num_rounds,
    )


def _measure(
    title: str,
    ours: Callable[[], Iterable[Any]],
    theirs: Callable[[], Iterable[Any]],
    *,
    clock: Callable[[], float],
    divisor: float,
    num_rounds: int,
) -> None:
    seconds: dict[str, list[float]] = {"ours": [], "webdataset": []}
    for number in range(num_rounds + 1):
        for name, start in (("ours", ours), ("webdataset", theirs)):
            started = clock()
            for _ in start():
                pass
            if number:  # the first is a warm-up
                seconds[name].append((clock() - started) / divisor)
    ratios = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds["webdataset"], strict=True)]
    medians = ", ".join(f"{name} {statistics.median(found):.3f}" for name, found in seconds.items())
    print(f"  {title}: {medians}; webdataset takes {statistics.median(ratios):.2f}x", end=" ")
    print(f"({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


if __name__ == "__main__":
    main()

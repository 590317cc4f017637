"""The memory of a node that streams a set as large as ImageNet-22K: 4 ranks with 2 workers each.

The set has an index of 14.2 million records over 1,420 tars, but its tars are one small tar, linked: each sample is one
of its few images. Everything that reads it is real.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np

from benchmarks.stream_resume import make_set
from hornet.data.config import StreamConfig, TransformConfig
from hornet.data.loader import open_train_stream
from hornet.shards.label_space import LabelSpace
from hornet.shards.manifest import Manifest, Split, read_manifest, write_manifest
from hornet.shards.shard_set import open_shards
from hornet.world import World

NUM_SAMPLES, NUM_SHARDS, NUM_CLASSES = 14_197_122, 1_420, 21_841
NUM_RANKS, NUM_WORKERS = 4, 2
GLOBAL_BATCH_SIZE, MICRO_BATCH_SIZE, NUM_STEPS = 64, 16, 10
WINDOWS = (64, 16, NUM_SHARDS)
"""Shards shuffled together: the default, few, and all."""
SCRIPT = "from benchmarks.stream_memory import be_rank; be_rank()"
MIB = 2**20


def measure_memory(folder: Path) -> None:
    """Measure a node's processes over a set of one tar and over one of 14.2 million samples."""
    small, large = folder / "small", folder / "large"
    make_set(small, num_shards=1, samples_per_shard=20, images=folder / "images")
    make_large(large, small)
    print(f"{NUM_RANKS} ranks x {NUM_WORKERS} workers; MiB of the node, summed over its {NUM_RANKS * 3} processes")
    print(f"  {'':<42}{'index':>8}{'anonymous':>11}{'all (PSS)':>11}{'open, s':>9}")
    base = measure_node(small, window=64)
    show("20 samples", base)
    for window in WINDOWS:
        found = measure_node(large, window=window)
        show(f"{NUM_SAMPLES} samples, window of {window} shards", found)
        show("  more than with 20 samples", {key: found[key] - base[key] for key in found})


def show(name: str, found: dict[str, float]) -> None:
    """Print a row."""
    print(
        f"  {name:<42}{found['index'] / MIB:>8.1f}{found['anonymous'] / MIB:>11.1f}{found['all'] / MIB:>11.1f}"
        f"{found['seconds']:>9.2f}",
        flush=True,
    )


def measure_node(shards: Path, *, window: int) -> dict[str, float]:
    """Start the ranks, let them stream, and sum what their processes and workers hold."""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(shards), str(rank), str(window)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        )
        for rank in range(NUM_RANKS)
    ]
    ready = [json.loads(rank.stdout.readline()) for rank in ranks if rank.stdout is not None]
    total: Counter[str] = Counter()
    for pid in (pid for answer in ready for pid in answer["pids"]):
        total.update(measure_process(pid))
    for rank in ranks:
        rank.communicate("")
    return {**total, "seconds": max(answer["seconds"] for answer in ready)}


def be_rank() -> None:
    """Stream for some steps from the middle of an epoch, say who is there, and stay until told to end."""
    shards, rank, window = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    world = World(
        rank=rank,
        num_ranks=NUM_RANKS,
        local_rank=rank,
        num_local_ranks=NUM_RANKS,
        master_address="127.0.0.1",
        master_port=0,
    )
    config = StreamConfig(
        shards=shards,
        shuffle_window_shards=window,
        partial_batch="carry",
        num_workers=NUM_WORKERS,
        transform=TransformConfig(image_size=224),
    )
    started = time.perf_counter()
    stream = open_train_stream(
        config, world=world, seed=0, global_batch_size=GLOBAL_BATCH_SIZE, micro_batch_size=MICRO_BATCH_SIZE
    )
    seconds = time.perf_counter() - started
    with closing(stream):
        middle = stream.num_samples // (2 * GLOBAL_BATCH_SIZE)
        far = int(window * stream.num_samples / NUM_SHARDS / GLOBAL_BATCH_SIZE) + 1
        for first in (middle, middle + far, middle + 2 * far):  # each in another window
            for _ in stream.iterate(first, NUM_STEPS):
                pass
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        print(json.dumps({"pids": [os.getpid(), *map(int, children)], "seconds": seconds}), flush=True)
        sys.stdin.read()


def measure_process(pid: int) -> dict[str, int]:
    """Return a process's share of memory in bytes: of all, of anonymous pages, and of the mapped index.

    Pages that several processes map count in equal parts for each (PSS), so sums over processes are a node's.
    """
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {
        "all": _read_kb(rollup, "Pss"),
        "anonymous": _read_kb(rollup, "Pss_Anon"),
        "index": sum(
            _read_kb(mapping, "Pss")
            for mapping in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{pid}/smaps").read_text(), flags=re.M)
            if ".npy" in mapping.partition("\n")[0]
        ),
    }


def _read_kb(text: str, key: str) -> int:
    match = re.search(rf"^{key}: +(\d+) kB$", text, flags=re.M)
    assert match is not None
    return int(match.group(1)) * 1024


def make_large(folder: Path, small: Path) -> None:
    """Make the set of 14.2 million samples out of the tar in `small`."""
    tar, few = small / "set-000000.tar", open_shards(small, "train")
    folder.mkdir()
    names = [f"set-{number:06d}.tar" for number in range(NUM_SHARDS)]
    for name in names:
        os.link(tar, folder / name)
    lengths = np.diff(np.arange(NUM_SHARDS + 1) * NUM_SAMPLES // NUM_SHARDS)
    records = np.resize(np.asarray(few.records), NUM_SAMPLES)
    records["label"] = np.arange(NUM_SAMPLES) % NUM_CLASSES
    np.save(folder / "train.index.npy", records)
    source = read_manifest(small).split("train")
    split = Split(
        name="train",
        shard_folder=".",
        shards=tuple(names),
        shard_lengths=tuple(lengths.tolist()),
        shard_bytes=source.shard_bytes * NUM_SHARDS,
        shard_sha256=source.shard_sha256 * NUM_SHARDS,
        index="train.index.npy",
        index_sha256=hashlib.sha256((folder / "train.index.npy").read_bytes()).hexdigest(),
        class_counts=tuple(np.bincount(records["label"], minlength=NUM_CLASSES).tolist()),
    )
    label_space = LabelSpace(name="large", classes=tuple(f"n{number:08d}" for number in range(NUM_CLASSES)))
    write_manifest(Manifest(path=folder / "_info.json", name="large", label_space=label_space, splits={"train": split}))

"""A build of as many images as ImageNet-22K has, without the images: everything but the copying is real."""

from __future__ import annotations

import hashlib
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hornet.shards.build.arrangement import arrange
from hornet.shards.build.build import write_plan
from hornet.shards.build.finish import finish_build
from hornet.shards.build.plan import BuildPlan
from hornet.shards.build.selection import Selection
from hornet.shards.build.source import Entry, PartListing, SeekableSource
from hornet.shards.build.writing import ShardRecord, record_path, write_record
from hornet.shards.index import RECORD, ShardIndex

NUM_CLASSES = 21_841
PER_CLASS = 650
MEAN_BYTES = 92_000


@dataclass(frozen=True)
class Synset:
    """The tar of one synset in fall11_whole.tar, made up."""

    name: str
    path: Path
    number: int

    def list(self) -> PartListing:
        """List 650 images with names and sizes as ImageNet's."""
        start = self.number * PER_CLASS * MEAN_BYTES
        return PartListing(
            entries=tuple(
                Entry(
                    name=f"{self.name}_{image}.JPEG",
                    class_name=self.name,
                    offset=start + image * MEAN_BYTES,
                    size=MEAN_BYTES - image,
                )
                for image in range(PER_CLASS)
            )
        )


def arrange_many(folder: Path, *, num_classes: int = NUM_CLASSES) -> dict[str, float]:
    """List, arrange and finish a build of `num_classes` x 650 images; return counts and seconds."""
    parts = tuple(Synset(f"n{number:08d}", folder, number) for number in range(num_classes))
    selection = Selection(validation_per_class=50)
    plan = BuildPlan(source=folder, output=folder / "set", name="many", selection=selection)
    seconds = {}
    start = time.perf_counter()
    arrangement = arrange(plan, SeekableSource(parts=parts), None)
    write_plan(plan, arrangement)
    seconds["arrange_seconds"] = time.perf_counter() - start
    seconds["arrange_peak_mib"] = _peak_mib()
    for task in arrangement.tasks:
        count = min(plan.samples_per_shard, len(arrangement.orders[task.split]) - task.number * plan.samples_per_shard)
        records = np.zeros(count, RECORD)
        records["offset"] = np.arange(count) * MEAN_BYTES
        records["label"] = task.number % num_classes
        digest = hashlib.sha256(str(task).encode()).hexdigest()
        index = ShardIndex(records=records, num_bytes=count * MEAN_BYTES, sha256=digest)
        write_record(record_path(plan.work, task), ShardRecord(index=index))
    start = time.perf_counter()
    report = finish_build(plan, arrangement)
    seconds["finish_seconds"] = time.perf_counter() - start
    seconds["finish_peak_mib"] = _peak_mib()
    return {"num_images": sum(split.num_samples for split in report.manifest.splits.values()), **seconds}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

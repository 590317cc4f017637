"""AP in worlds of several sizes, each rank over its part of a set; run as a script by test_detections.py.

Usage: python -m tests.integration.detections FOLDER RANKS... FOLDER holds a set with objects. Each world prints what
each of its ranks has found, as JSON.
"""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import torch

from hornet.data.instances import open_instance_evaluation
from hornet.data.instances_config import InstanceEvaluationConfig
from hornet.drills.forked_ranks import run_world
from hornet.shards.instance_masks import make_mask
from hornet.shards.instances import parse_instances
from hornet.training.average_precision import AveragePrecision
from hornet.training.detection_results import DetectionResults, read_category_ids
from hornet.training.process_group import gather_from_all


def detect(truth, num_classes):
    """Its objects, each moved a little, of a score of its own."""
    random = np.random.default_rng(truth.image_id)
    height, width = truth.original_size
    masks = [np.zeros((height, width), np.uint8)]
    boxes, labels = [[0.0, 0.0, 9.0, 9.0]], [1]
    for one in parse_instances(truth.annotations, num_classes=num_classes).annotations:
        down, right = random.integers(-3, 4, 2).tolist()
        masks.append(np.roll(make_mask(one.segmentation, height=height, width=width), (down, right), (0, 1)))
        left, top, box_width, box_height = one.box
        boxes.append([left + right, top + down, left + right + box_width, top + down + box_height])
        labels.append(one.category)
    return {
        "boxes": torch.tensor(boxes),
        "scores": torch.from_numpy(random.random(len(boxes))),
        "labels": torch.tensor(labels),
        "masks": torch.from_numpy(np.stack(masks)),
    }


def tell(folder, world):
    config = InstanceEvaluationConfig(
        shards=folder / "set", index=folder / "index", short_edge=32, max_long_edge=80, max_bad_sample_rate=1
    )
    stream = open_instance_evaluation(config, world=world)
    num_classes = len(stream.label_space)
    counted = AveragePrecision(num_classes)
    for batch in stream.iterate():
        counted.add_bad(len(batch.bad_samples))
        for truth in batch.instances:
            counted.add(truth, **detect(truth, num_classes))
    rows = gather_from_all(dataclasses.asdict(counted.finish()))
    if world.is_main:
        ids = read_category_ids(stream.origin, num_classes=num_classes, name="squares")
        results = DetectionResults(folder=folder / f"of_{world.num_ranks}", category_ids=ids)
        results.prepare()
        results.write(counted.gathered)
        print(json.dumps({"num_ranks": world.num_ranks, "rows": rows}), flush=True)


if __name__ == "__main__":
    for number in sys.argv[2:]:
        run_world(int(number), lambda world: tell(Path(sys.argv[1]), world))

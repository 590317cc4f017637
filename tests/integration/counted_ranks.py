"""An evaluation in worlds of several sizes; run as a script by test_counts.py.

Usage: python -m tests.integration.counted_ranks SET RANKS... Rank 0 of each world prints a line of JSON.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from hornet.data.config import EvaluationConfig, MixingConfig
from hornet.drills.forked_ranks import run_world
from hornet.errors import UserError
from hornet.shards.label_space import LabelSpace
from hornet.stages.config import EvaluateConfig, JudgeConfig
from hornet.stages.evaluation import measure, open_stream
from hornet.stages.judging import plan_judging
from hornet.training.probe import Features, classify_by_neighbours, classify_linearly, fit_linear

CLASSES = tuple(f"class_{label:05d}" for label in (3, 1, 4, 0, 9, 2))
"""Of the head: the set's five in another order, and one more."""
SIZE = 32


def compute_logits(images):
    """Make logits of an image alone, the same to the bit in whatever batch it is."""
    seeds = images.double().mul(1000).round().sum(dim=(1, 2, 3)).long().tolist()
    rows = [torch.randn(len(CLASSES), generator=torch.Generator().manual_seed(seed % 2**31)) for seed in seeds]
    return torch.stack(rows)


def make_config(folder):
    evaluation = EvaluationConfig(shards=folder, split="train", image_size=SIZE, batch_size=5)
    return EvaluateConfig(source=Path("made"), evaluation=evaluation, judge=JudgeConfig(by_name=True))


def name_set(folder):
    """The set's own label space is numbered, which is no name; here it is."""
    return LabelSpace(name="made", classes=tuple(f"class_{label:05d}" for label in range(5)))


def tell(world, folder):
    config = make_config(folder)
    stream = open_stream(config.evaluation, world=world)
    weights = LabelSpace(name="head", classes=CLASSES)
    judging = plan_judging(config.judge, of_set=name_set(folder), of_weights=weights)
    arguments = {"judging": judging, "mixing": MixingConfig(), "config": config, "device": torch.device("cpu")}
    found = measure({"raw": compute_logits}, stream, **arguments)["raw"]
    error = ""
    try:
        measure({"raw": compute_logits if world.rank < world.num_ranks - 1 else fail}, stream, **arguments)
    except UserError as raised:
        error = str(raised)
    probe = ask_neighbours(world)
    if world.is_main:
        line = {"num_ranks": world.num_ranks, "found": asdict(found), "error": error, "probe": probe}
        print(json.dumps(line), flush=True)


def make_features(count, world=None):
    """Clouds of four classes; of a world each rank has every so-manieth image, padded to equal numbers."""
    random = torch.Generator().manual_seed(count)
    labels = torch.randint(4, (count,), generator=random)
    rows = torch.eye(4, 8)[labels] + 0.9 * torch.randn(count, 8, generator=random)
    rank, num_ranks = (0, 1) if world is None else (world.rank, world.num_ranks)
    mine = torch.arange(-(-count // num_ranks)) * num_ranks + rank
    is_real = mine < count
    return Features(rows=rows[mine.clamp(max=count - 1)], labels=labels[mine.clamp(max=count - 1)], is_real=is_real)


def ask_neighbours(world):
    memory, queries = make_features(101, world), make_features(53, world)
    shares = classify_by_neighbours(memory, queries, neighbours=(1, 9), temperature=0.07, num_classes=4, block=5)
    weight, bias = fit_linear(memory, num_classes=4, l2=0.01, block=16)
    found = [*shares.values(), classify_linearly(queries, weight, bias)]
    return {"hits": [share.hits for share in found], "num_images": [share.num_images for share in found]}


def fail(images):
    raise UserError("lost its set")


if __name__ == "__main__":
    for number in sys.argv[2:]:
        run_world(int(number), lambda world: tell(world, Path(sys.argv[1])))

"""Both dense tasks from end to end on small data: scenes -> shards -> a segmenter on 2 ranks, killed once and resumed,
and a detector -> evaluation -> images of predictions. A few minutes on 2 CPU cores; results in data/demo-dense/ and
runs/demo-dense/ of the folder it is started in; what is there already stays. Started by `hornet demo --dense`.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from hornet.cli import print_to_pipe
from hornet.cli.demo import (
    LAUNCH,
    ON_TWO_CPUS,
    call,
    call_and_kill,
    find_tensorboard,
    is_whole,
    python,
    require_ranks,
    require_whole,
)

DATA = Path("data/demo-dense")
RUNS = Path("runs/demo-dense")
KILL_AFTER_STEP = 50
CLASSES = "classes.txt"
SCENES = ("images", "annotations")
"""What launch/scenes.py makes, besides the classes."""
SPLITS = (("train", "training"), ("validation", "validation"))


def show_dense_tasks() -> None:
    """Run every command as a user would."""
    started = time.monotonic()
    segmenter, detector = RUNS / "scenes", RUNS / "instances"
    make_scenes()
    build("shards", "--name", "scenes", "--classes", DATA / "scenes" / CLASSES, "--samples-per-shard", 100)
    training = [*ON_TWO_CPUS, LAUNCH / "dense.py", "--config", "configs/demo/segmentation.yaml"]
    call_and_kill("training a segmenter, to be killed", training, segmenter, after_step=KILL_AFTER_STEP)
    call("training it, the same command again", training)
    build("instances", "--layout", "coco")
    training = [*ON_TWO_CPUS, LAUNCH / "dense.py", "--config", "configs/demo/instances.yaml"]
    call("training a detector", training)
    for run in (segmenter, detector):
        require_ranks(run)
    pixels, things = read_best(segmenter), read_best(detector)
    print_to_pipe(f"""
=== done in {time.monotonic() - started:.0f} s: on {pixels["num_images"]} held-out scenes
  mIoU {pixels["miou"]:.2f} % of the segmenter; mask AP50 {things["mask_ap50"]:.2f} %, box AP50 \
{things["box_ap50"]:.2f} % of the detector
  {find_image(segmenter)}       scenes, their masks, and what the segmenter says
  {find_image(detector)}    scenes as annotated, and what the detector finds
  runs/demo-dense/scenes/          metrics.jsonl, evaluations.jsonl, checkpoints/, summary.json; killed once and resumed
  runs/demo-dense/instances/       the same of the detector
  data/demo-dense/scenes/          images, masks and objects, as ADE20K and COCO have them
  data/demo-dense/shards/          the same as WebDataset tars: NAME.png, NAME.seg.png, NAME.cls
  data/demo-dense/instances/       with objects for masks: NAME.png, NAME.instances.json, NAME.cls
  {find_tensorboard()} --logdir runs/demo-dense     curves and the same images""")


def make_scenes() -> None:
    """Compose the scenes, unless they are there whole; some of them, which a kill has left, are made anew."""
    folder = DATA / "scenes"
    if (folder / CLASSES).exists():  # what is written last
        print_to_pipe(f"demo: {folder} is there")
        return
    for part in SCENES:
        if (folder / part).exists():
            print_to_pipe(f"demo: removing {folder / part}, which is not whole, to make it again")
            shutil.rmtree(folder / part)
    scenes = ("--num-training", 400, "--num-validation", 50, "--size", 96, "--max-objects", 2, "--num-digits", 3)
    call("scenes: digits on photographs", python("scenes.py", folder, *scenes))


def build(name: str, *options: object) -> None:
    """Make the scenes into a set of both splits, unless it is there."""
    for split, source in SPLITS:
        if is_whole(DATA / name, split):
            continue
        command = ("shards.py", "build", DATA / "scenes", DATA / name, "--split", split)
        call(f"{name}: {split}", python(*command, "--source-split", source, *options))
        require_whole(DATA / name, split)


def read_best(run: Path) -> dict[str, Any]:
    """Return the run's best evaluation."""
    best: dict[str, Any] = json.loads((run / "summary.json").read_text())["best_evaluation"]
    return best


def find_image(run: Path) -> Path:
    """Return the last image of predictions."""
    return max((run / "images").glob("predictions_raw_*.png"))

"""Both dense tasks from end to end on small data: scenes -> shards -> a segmenter on 2 ranks, killed once and resumed,
and a detector -> evaluation -> images of predictions. A few minutes on 2 CPU cores; results in runs/demo-dense/.
Started by `hornet demo --dense`.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from hornet.cli import print_to_pipe
from hornet.cli.demo import ON_TWO_CPUS, ROOT, call, call_and_kill, python, require_ranks

DATA = ROOT / "data" / "demo-dense"
RUNS = ROOT / "runs" / "demo-dense"
KILL_AFTER_STEP = 50
SPLITS = (("train", "training"), ("validation", "validation"))


def show_dense_tasks() -> None:
    """Run every command as a user would."""
    started = time.monotonic()
    segmenter, detector = RUNS / "scenes", RUNS / "instances"
    for folder in (DATA, segmenter, detector):
        shutil.rmtree(folder, ignore_errors=True)
    scenes = ("--num-training", 400, "--num-validation", 50, "--size", 96, "--max-objects", 2, "--num-digits", 3)
    call("scenes: digits on photographs", python("launch/scenes.py", DATA / "scenes", *scenes))
    build("shards", "--name", "scenes", "--classes", DATA / "scenes" / "classes.txt", "--samples-per-shard", 100)
    training = [*ON_TWO_CPUS, "launch/dense.py", "--config", "configs/demo/segmentation.yaml"]
    call_and_kill("training a segmenter, to be killed", training, segmenter, after_step=KILL_AFTER_STEP)
    call("training it, the same command again", training)
    build("instances", "--layout", "coco")
    training = [*ON_TWO_CPUS, "launch/dense.py", "--config", "configs/demo/instances.yaml"]
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
  .venv/bin/tensorboard --logdir runs/demo-dense     curves and the same images""")


def build(name: str, *options: object) -> None:
    """Make the scenes into a set of both splits."""
    for split, source in SPLITS:
        command = ("launch/shards.py", "build", DATA / "scenes", DATA / name, "--split", split)
        call(f"{name}: {split}", python(*command, "--source-split", source, *options))


def read_best(run: Path) -> dict[str, Any]:
    """Return the run's best evaluation."""
    best: dict[str, Any] = json.loads((run / "summary.json").read_text())["best_evaluation"]
    return best


def find_image(run: Path) -> Path:
    """Return the last image of predictions, as seen from the repository."""
    return max((run / "images").glob("predictions_raw_*.png")).relative_to(ROOT)

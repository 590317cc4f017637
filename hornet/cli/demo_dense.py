"""Segmentation from end to end on small data: scenes -> shards -> training on 2 ranks, killed once and resumed ->
evaluation -> pictures. A few minutes on 2 CPU cores; results in runs/demo-dense/. Started by `hornet demo --dense`.
"""

from __future__ import annotations

import json
import shutil
import time

from hornet.cli.demo import ON_TWO_CPUS, ROOT, call, call_and_kill, python, require_ranks

DATA = ROOT / "data" / "demo-dense"
RUN = ROOT / "runs" / "demo-dense" / "scenes"
KILL_AFTER_STEP = 50


def segment_scenes() -> None:
    """Run every command as a user would."""
    started = time.monotonic()
    for folder in (DATA, RUN):
        shutil.rmtree(folder, ignore_errors=True)
    scenes = ("--num-training", 400, "--num-validation", 50, "--size", 96, "--max-objects", 2, "--num-digits", 3)
    call("scenes: digits on photographs", python("launch/scenes.py", DATA / "scenes", *scenes))
    for split, source in (("train", "training"), ("validation", "validation")):
        build = ("launch/shards.py", "build", DATA / "scenes", DATA / "shards", "--name", "scenes", "--split", split)
        options = ("--source-split", source, "--classes", DATA / "scenes" / "classes.txt", "--samples-per-shard", 100)
        call(f"shards: {split}", python(*build, *options))
    training = [*ON_TWO_CPUS, "launch/dense.py", "--config", "configs/demo/segmentation.yaml"]
    call_and_kill("training, to be killed", training, RUN, after_step=KILL_AFTER_STEP)
    call("training, the same command again", training)
    require_ranks(RUN)
    summary = json.loads((RUN / "summary.json").read_text())
    best = summary["best_evaluation"]
    pictures = sorted((RUN / "images").glob("predictions_raw_*.png"))
    print(f"""
=== done in {time.monotonic() - started:.0f} s: mIoU {best["miou"]:.2f} % on {best["num_images"]} held-out scenes
  runs/demo-dense/scenes/images/{pictures[-1].name}    scenes, their masks, and what the network says
  runs/demo-dense/scenes/          metrics.jsonl, evaluations.jsonl, checkpoints/, summary.json; killed once and resumed
  data/demo-dense/scenes/          images, masks and the names of their classes, as ADE20K has them
  data/demo-dense/shards/          the same as WebDataset tars: NAME.png, NAME.seg.png, NAME.cls
  .venv/bin/tensorboard --logdir runs/demo-dense     curves and the same pictures""")

"""A run directory written by hand: three attempts (killed, stopped, finished), dropped steps, strangers' texts."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

START = 1_700_000_000.0
EVIL = "<script>alert(1)</script>\"'&</td>"


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_metrics(num_steps):
    """A row a step, one second each; the steps of the three attempts begin at 100, 200 and 300 seconds."""
    starts = {range(1, 5): 100, range(5, 9): 200, range(9, num_steps + 1): 300}
    return [
        {
            "time": START + next(start + step - steps.start + 1 for steps, start in starts.items() if step in steps),
            "step": step,
            "epoch": step / 4,
            "images_seen": 8 * step,
            "loss": None if step == 6 else 8.0 / step,
            "lr": 1e-3,
            "grad_norm": 1.0 + step % 3,
            "images_per_second": 8.0,
            "mfu": 0.25,
            "data_seconds": 0.1,
            "forward_seconds": 0.2,
            "backward_seconds": 0.4,
            "optimizer_seconds": 0.1,
            "step_seconds": 1.0,
            "slowest_rank": step % 2,
            "slowest_over_median": 1.1,
            "memory_bytes": 2**30,
        }
        for step in range(1, num_steps + 1)
    ]


EVENTS = [
    {"time": START + 90, "event": "starting", "step": 0, "num_ranks": 2, "lost_steps": 0},
    {"time": START + 101, "event": "running", "step": 1, "num_steps": 12},
    {"time": START + 105, "event": "save", "step": 4, "seconds": 0.5},
    # killed after step 6
    {"time": START + 190, "event": "starting", "step": 4, "num_ranks": 2, "lost_steps": 2},
    {"time": START + 201, "event": "running", "step": 5},
    {"time": START + 205, "event": "save", "step": 8, "seconds": 0.5},
    {"time": START + 206, "event": "stopped", "step": 8, "reason": "SIGUSR1"},
    {"time": START + 290, "event": "starting", "step": 8, "num_ranks": 4, "lost_steps": 0},
    {"time": START + 301, "event": "running", "step": 9},
    {"time": START + 305, "event": "evaluate", "step": 12, "seconds": 2.0, "weights": "raw"},
    {"time": START + 308, "event": "finished", "step": 12},
]


def make_run(folder: Path) -> Path:
    """Write it whole; tests take away or damage what they need."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"run:\n  name: {EVIL}\n")
    environment = {
        "python": "3.11",
        "torch": EVIL,
        "gpus": ["NVIDIA H200", "NVIDIA H200"],
        "command": ["pretrain.py", EVIL],
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "status.json").write_text(json.dumps({"state": "finished", "step": 12}))
    (folder / "summary.json").write_text(json.dumps({"steps": 12}))
    departures = [{"key": EVIL, "remark": EVIL, "published": "1e-3", "ours": "2e-3"}]
    (folder / "recipe.json").write_text(json.dumps({"published": EVIL, "departures": departures}))
    write_rows(folder / "metrics.jsonl", make_metrics(12))
    write_rows(folder / "events.jsonl", EVENTS)
    evaluations = [
        {"step": step, "weights": weights, "top1": 50.0 + step, "top5": 90.0, "loss": 1.0}
        for step in (6, 12)
        for weights in ("raw", "ema")
    ]
    write_rows(folder / "evaluations.jsonl", evaluations)
    parts = {"stages.0": {"weight_norm": 3.0, "grad_norm": 0.5, "layer_scale": 1e-6}, EVIL: {"weight_norm": 1.0}}
    write_rows(folder / "norms.jsonl", [{"step": step, "parts": parts} for step in (4, 8)])
    dropped = {"step": 6, "reason": EVIL, "keys": [EVIL] * 5, "value": None, "loss": None, "grad_norm": 2.0}
    write_rows(folder / "dropped_steps.jsonl", [dropped])
    (folder / "skipped_batches.json").write_text(json.dumps([{"first": 3, "stop": 5, "by": EVIL}]))
    (folder / "bad_samples").mkdir()
    bad = {"key": EVIL, "reason": EVIL, "substitute": EVIL, "epoch": 0}
    write_rows(folder / "bad_samples/rank_0.jsonl", [bad])
    (folder / "images").mkdir()
    write_evaluations(folder / "evaluations")
    for name in (
        "augmented_images_step_00000001",
        "filter_stages.2.0.gnconv_step_00000001",
        "filter_<i>_step_00000004",
    ):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / f"images/{name}.png")
    return folder


def write_evaluations(folder: Path) -> None:
    """What launch/evaluate.py leaves: of one set, and of another with corrupted images."""
    view = {"weights": "raw", "image_size": 224, "crop_fraction": None}
    row = {**view, "corruption": None, "top1": 61.5, "top5": 83.25, "loss": 1.4567, "num_images": 30_000}
    row |= {"calibration_error": 0.089, "mean_class_top1": 55.4, "real": {"top1": 70.12, "num_images": 9}}
    whole = {"set": EVIL, "step": 12, "results": [row], "corruptions": [], "departures": []}
    view = {"weights": "ema", "image_size": 48, "crop_fraction": 0.875}
    plain = {**row, **view, "top1": 49.0, "top5": 91.0, "loss": 2.0, "num_images": 48, "real": None}
    plain |= {"calibration_error": 0.032, "mean_class_top1": 48.0}
    errors = {"fog": [0.1, 0.2, 0.3, 0.4, 0.5], "frost": [0.6] * 5, EVIL: [0.0] * 5}
    summary = {**view, "errors": errors, "mean_error": 38.25, "mce": None}
    corrupted = {**whole, "results": [plain, {**plain, "corruption": "fog/1"}], "corruptions": [summary]}
    corrupted["departures"] = [EVIL]
    for name, found in (("imagenet-r_validation", whole), ("fliers_train", corrupted)):
        (folder / name).mkdir(parents=True)
        (folder / name / "evaluation.json").write_text(json.dumps(found))
        (folder / name / "evaluation.svg").write_text(f"<svg><title>{name}</title></svg>")

"""Small studies made on the spot."""

import json
from pathlib import Path

from scaling.config import read_study
from tests.unit.shards.making import make_set

ROOT = Path(__file__).resolve().parents[3]
OVERRIDES = [
    "evaluation.split=train",
    "global_batch_size=4",
    "micro_batch_size=4",
    "data.transform.image_size=32",
    "evaluation.image_size=32",
]
GRID = {
    "base": str(ROOT / "configs/demo/pretrain.yaml"),
    "overrides": ["model.name=hornet_{size}_{family}", "schedule.warmup_epochs=0", *OVERRIDES],
    "families": ["gf", "7x7"],
    "sizes": ["atto", "femto"],
    "fractions": [0.5, 1.0],
    "seeds": [0, 1],
    "epochs": [2],
}
TUNED = {"base": str(ROOT / "configs/demo/finetune.yaml"), "from": "grid", "overrides": OVERRIDES}


def write_study(tmp_path, *, groups=None, **sections):
    """Write the study's file, and its set if there is none; return the file."""
    if not (tmp_path / "toy").exists():
        make_set(tmp_path / "toy")
    values = {
        "study": {"name": "toy", "root": str(tmp_path / "runs")},
        "data": {"source": str(tmp_path / "toy")},
        "groups": groups or {"grid": GRID},
        **sections,
    }
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(values, indent=2))  # which is YAML, without aliases
    return path


def make_study(tmp_path, **sections):
    return read_study(write_study(tmp_path, **sections))

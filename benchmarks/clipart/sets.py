"""The sets of the experiments, from the unpacked package openclipart-png: fine classes, coarse ones, scenes.

All three hold out the same images. A fifth of each class, drawn at random, is for validation; training images that
look like one of those are left out (`launch/shards.py duplicates`). The coarse class of an image is the first folder
of its path, and its fine class the whole path. The cut-outs of training scenes are training images, those of
validation scenes validation images, so no network has seen them, whatever it was pretrained on.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from hornet.cli.openclipart import link_classes
from hornet.durable import read_json_lines, write_json
from hornet.errors import UserError
from hornet.seeding import derive_seed

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = {"shapes-stars": "1,378 regular stars, nearly all of which look like another at 96 pixels"}
SPLITS = {"train": "training", "validation": "validation"}
"""Split of a set of images, and what it is called where images have masks."""
MIN_IMAGES = 9
SHORT_EDGE = 96
IMAGES = ("--max-short-edge", SHORT_EDGE, "--format", "webp", "--quality", 80)

SCENE_CLASSES = ("animals", "computer", "food", "people", "recreation", "signs_and_symbols")
"""The largest coarse classes, without shapes: half of those are arrows and frames, of which little is opaque."""
MAX_CUTOUTS = {"train": 160, "validation": 40}
"""Of a class, so that none is met much more often than another."""
OPAQUE_SHARE = (0.1, 0.9)
"""Of an image's pixels: less is lines, more is an image with its own background."""
SCENES = ("--num-training", 600, "--num-validation", 200, "--size", 128, "--max-objects", 6, "--seed", 0)


def make_sets(tree: Path, output: Path) -> str:
    """Make fine/, coarse/ and scenes/ in a folder that holds none of them; return what was made. Raises UserError."""
    for name in ("fine", "coarse", "scenes"):
        if (output / name).exists():
            raise UserError(f"{output / name}: is there already; remove it to make it anew")
    work = output / "work"
    shutil.rmtree(work, ignore_errors=True)
    classes = link_classes(tree, work / "classes")
    for name in LEFT_OUT:
        shutil.rmtree(classes / name, ignore_errors=True)
    for path in classes.glob("*/*.*.png"):  # a key in a tar ends at the first dot, so `build` would change the name
        path.rename(path.with_name(f"{path.stem.replace('.', '_')}.png"))
    held = _divide(classes, work)
    for split, images in held.items():
        for name, chosen in images.items():
            top = name.partition("-")[0]
            for image in chosen:
                source = (classes / name / image).resolve()
                _link(source, work / "fine" / split / name / image)
                _link(source, work / "coarse" / split / f"any_{top}" / f"{name}--{image}")
    for kind in ("fine", "coarse"):
        for split in SPLITS:
            words = ("--name", f"openclipart-{kind}", "--split", split, "--samples-per-shard", 500)
            _call("shards", "build", work / kind / split, output / kind, *words, *IMAGES)
    counts = _cut_out(held, classes, work / "objects")
    _build_scenes(work, output / "scenes")
    summary = {
        "left_out": LEFT_OUT,
        "images": {split: sum(len(chosen) for chosen in images.values()) for split, images in held.items()},
        "classes": {kind: _count_classes(output / kind) for kind in ("fine", "coarse", "scenes")},
        "cutouts": counts,
    }
    write_json(output / "sets.json", summary)
    shutil.rmtree(work)
    return json.dumps(summary, indent=1)


def _build_scenes(work: Path, output: Path) -> None:
    _call("scenes", work / "scenes", "--objects", work / "objects", *SCENES)
    for split, source in SPLITS.items():
        words = ("--name", "openclipart-scenes", "--split", split, "--source-split", source, "--samples-per-shard", 100)
        look = ("--classes", work / "scenes" / "classes.txt", "--rewrite-all", "--format", "webp", "--quality", 90)
        _call("shards", "build", work / "scenes", output, *words, *look)


def count_images(folder: Path, split: str) -> int:
    """Return how many samples a split of a set has, from its manifest."""
    manifest = folder / "_info.json"
    if not manifest.exists():
        raise UserError(f"{folder}: holds no set; make it with `python -m benchmarks.clipart sets`")
    return int(json.loads(manifest.read_text())["splits"][split]["num_samples"])


def _count_classes(folder: Path) -> int:
    return len(json.loads((folder / "_info.json").read_text())["label_space"]["classes"])


def _divide(classes: Path, work: Path) -> dict[str, dict[str, list[str]]]:
    """Return the file names of each split and class, training images without those that look like validation's."""
    whole = work / "whole"
    share = ("--min-images-per-class", MIN_IMAGES, "--validation-share", 0.2, "--validation-at-least", 2)
    _call("shards", "build", classes, whole, *share, *IMAGES)
    _call("shards", "duplicates", whole, whole, "--output", work / "exclude.jsonl")
    excluded = {line["key"].partition("/")[2] for line in read_json_lines(work / "exclude.jsonl")}
    held: dict[str, dict[str, list[str]]] = {}
    for split in SPLITS:
        for key in _list_keys(whole, split):
            if split == "train" and key in excluded:
                continue
            name, _, stem = key.partition("/")
            held.setdefault(split, {}).setdefault(name, []).append(f"{stem}.png")
    trained = held["train"]
    lost = sorted(set(held["validation"]) - set(trained))
    if lost:
        raise UserError(f"{', '.join(lost)}: all training images look like validation's; add the class to LEFT_OUT")
    return held


def _list_keys(folder: Path, split: str) -> Iterator[str]:
    for path in sorted(folder.glob(f"*-{split}-*.tar")):
        with tarfile.open(path) as tar:
            yield from (name.removesuffix(".cls") for name in tar.getnames() if name.endswith(".cls"))


def _cut_out(held: Mapping[str, Mapping[str, list[str]]], classes: Path, folder: Path) -> dict[str, dict[str, int]]:
    """Link images that can be cut out, in a random order by name, up to the number of each class; return numbers."""
    counts: dict[str, dict[str, int]] = {}
    for split, source in SPLITS.items():
        for top in SCENE_CLASSES:
            found = [
                (name, image)
                for name, images in held[split].items()
                if name.partition("-")[0] == top
                for image in images
            ]
            found.sort()
            random.Random(derive_seed("cutouts", top)).shuffle(found)
            linked = 0
            for name, image in found:
                path = (classes / name / image).resolve()
                if linked < MAX_CUTOUTS[split] and _can_be_cut_out(path):
                    _link(path, folder / source / top / f"{name}--{image}")
                    linked += 1
            counts.setdefault(split, {})[top] = linked
    return counts


def _can_be_cut_out(path: Path) -> bool:
    with Image.open(path) as image:
        if "A" not in image.getbands() and "transparency" not in image.info:
            return False
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    return bool(OPAQUE_SHARE[0] <= (alpha >= 128).mean() <= OPAQUE_SHARE[1])


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)


def _call(command: str, *arguments: object) -> None:
    words = [sys.executable, str(ROOT / "launch" / f"{command}.py"), *map(str, arguments)]
    print("$", " ".join(words[1:]), flush=True)
    done = subprocess.run(words, check=False)
    if done.returncode != 0:
        raise UserError(f"`{' '.join(words[1:])}` ended with exit code {done.returncode}; its own words stand above")

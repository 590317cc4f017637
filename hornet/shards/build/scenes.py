"""Scenes with exact masks, composed of real cut-outs on real photographs: something to segment without a download.

The masks are exact since they are made with the images, and the images are no photographs of scenes: cut-outs are
scaled, turned and laid over each other anywhere. What a network learns here says that training works and lets two
networks be compared; it is no benchmark of segmentation.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from hornet.errors import UserError
from hornet.seeding import derive_seed
from hornet.shards.build.scene_objects import Scene, describe_objects, list_objects
from hornet.shards.build.sources.mask_folders import IMAGES, MASKS, OBJECTS_PREFIX
from hornet.shards.build.sources.names import is_image
from hornet.shards.decode import UndecodableImageError, decode_image, open_image
from hornet.shards.instances import BACKGROUND
from hornet.shards.mask import encode_mask

SPLITS = ("training", "validation")
VALIDATION_PART = 5
"""One of so many images, and of so many columns of a photograph, is kept for validation."""
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SHARE_OF_EDGE = (0.3, 0.6)
"""Longer edge of a cut-out over that of the scene."""
MAX_DEGREES = 20.0
OPAQUE = 128
"""Alpha from which a pixel shows the cut-out."""


@dataclass(frozen=True, kw_only=True)
class SceneOptions:
    """How many scenes, and of what kind."""

    num_training: int = 400
    """Scenes to train on."""
    num_validation: int = 100
    """Scenes to evaluate on, of other cut-outs and other places of photographs."""
    size: int = 128
    """Edge of a scene, pixels."""
    max_objects: int = 3
    """Cut-outs of a scene, 1 to this many."""
    num_digits: int = 10
    """Of scikit-learn's digits, how many are classes: 0 to this minus one."""
    seed: int = 0
    """Of everything that is drawn."""

    def __post_init__(self) -> None:
        for name, least in (
            ("num_training", 1),
            ("num_validation", 1),
            ("size", 32),
            ("max_objects", 1),
            ("num_digits", 1),
        ):
            if getattr(self, name) < least:
                raise UserError(f"{name.replace('_', '-')}: must be at least {least}, not {getattr(self, name)}")
        if self.num_digits > len(DIGITS):
            raise UserError(f"num-digits: must be at most {len(DIGITS)}, not {self.num_digits}")


@dataclass(frozen=True, kw_only=True)
class Cutouts:
    """What the scenes of one split are made of."""

    objects: Sequence[tuple[int, Callable[[], Image.Image]]]
    """Class from 1, and what opens the cut-out: RGBA."""
    backgrounds: Sequence[Callable[[], Image.Image]]
    """What opens a photograph: RGB."""
    may_be_flipped: bool
    """False for digits: a mirrored 2 is none."""


def write_scenes(
    folder: Path, options: SceneOptions, *, objects: Path | None = None, backgrounds: Path | None = None
) -> str:
    """Write a folder that has no scenes yet, and return what was made.

    Images are in images/SPLIT, masks in annotations/SPLIT with their classes.txt, and the cut-outs' own masks in
    annotations/instances_SPLIT.json, as COCO has them.

    Cut-outs are scikit-learn's digits, or the images with alpha in `objects`/CLASS/, of which a part is kept for
    validation; in `objects`/training/CLASS/ and `objects`/validation/CLASS/ that part is its owner's choice.
    Backgrounds are scikit-learn's two photographs, or the images in `backgrounds`. Raises UserError for folders
    without such images.
    """
    if (folder / IMAGES).exists():
        raise UserError(f"{folder}: holds scenes already; remove it, or choose another folder")
    classes: list[str] = list(DIGITS[: options.num_digits])
    remarks: list[str] = []
    if objects is not None:
        classes, files, remarks = _list_objects(objects)
    photographs = None if backgrounds is None else _list_backgrounds(backgrounds)
    for split, count in zip(SPLITS, (options.num_training, options.num_validation), strict=True):
        chosen = Cutouts(
            objects=_load_digits(split, options) if objects is None else _open_objects(files[split]),
            backgrounds=_open_own_photographs(split) if photographs is None else _choose_files(photographs, split),
            may_be_flipped=objects is not None,
        )
        if not chosen.objects or not chosen.backgrounds:
            raise UserError(f"{objects or backgrounds}: too few images to keep some apart for validation; give more")
        for kind in (IMAGES, MASKS):
            (folder / kind / split).mkdir(parents=True)
        scenes = []
        for number in range(count):
            scene = compose(chosen, options, key=(split, number))
            scene.image.save(folder / IMAGES / split / f"scene_{number:05d}.png")
            content = encode_mask(scene.classes, num_classes=len(classes) + 1)
            (folder / MASKS / split / f"scene_{number:05d}.png").write_bytes(content)
            scenes.append(describe_objects(scene))
        listed = list_objects(scenes, classes, size=options.size)
        (folder / MASKS / f"{OBJECTS_PREFIX}{split}.json").write_text(json.dumps(listed))
    (folder / "classes.txt").write_text("\n".join([BACKGROUND, *classes]) + "\n")
    made = (
        f"{folder}: {options.num_training} + {options.num_validation} scenes of {len(classes)} classes and background"
    )
    return "\n".join([made, *remarks])


def compose(cutouts: Cutouts, options: SceneOptions, *, key: tuple[str, int]) -> Scene:
    """Return a scene; later cut-outs cover earlier ones."""
    draw = random.Random(derive_seed("scene", options.seed, *key))
    edge = options.size
    photograph = draw.choice(cutouts.backgrounds)()
    side = draw.randint(min(*photograph.size, edge) // 2 + 1, min(photograph.size))
    left, top = (draw.randint(0, length - side) for length in photograph.size)
    scene = photograph.resize((edge, edge), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    owners = np.zeros((edge, edge), np.int16)
    labels = []
    for owner in range(1, draw.randint(1, options.max_objects) + 1):
        label, open_object = draw.choice(cutouts.objects)
        cutout = open_object()
        factor = draw.uniform(*SHARE_OF_EDGE) * edge / max(cutout.size)
        size = (max(1, round(cutout.width * factor)), max(1, round(cutout.height * factor)))
        cutout = cutout.resize(size, Image.Resampling.BICUBIC)
        if cutouts.may_be_flipped and draw.random() < 0.5:
            cutout = cutout.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        cutout = cutout.rotate(draw.uniform(-MAX_DEGREES, MAX_DEGREES), Image.Resampling.BICUBIC, expand=True)
        place = tuple(draw.randint(0, max(0, edge - length)) for length in cutout.size)
        layer = Image.new("RGBA", (edge, edge))
        layer.paste(cutout, (place[0], place[1]))
        scene.paste(layer, (0, 0), layer)
        owners[np.asarray(layer)[..., 3] >= OPAQUE] = owner
        labels.append(label)
    return Scene(image=scene, owners=owners, labels=tuple(labels))


def _load_digits(split: str, options: SceneOptions) -> list[tuple[int, Callable[[], Image.Image]]]:
    """Return scikit-learn's 1,797 digits as cut-outs of one colour each; their ink is the alpha."""
    from sklearn.datasets import load_digits  # seconds that other commands need not wait for

    digits = load_digits()
    found: list[tuple[int, Callable[[], Image.Image]]] = []
    for number, (ink, label) in enumerate(zip(digits.images, digits.target.tolist(), strict=True)):
        if label < options.num_digits and (number % VALIDATION_PART == 0) == (split == "validation"):
            draw = random.Random(derive_seed("colour", options.seed, number))
            colour = tuple(draw.randint(0, 255) for _ in range(3))
            found.append((label + 1, _cut_out(ink, colour)))
    return found


def _cut_out(
    ink: np.ndarray[tuple[int, int], np.dtype[np.float64]], colour: tuple[int, ...]
) -> Callable[[], Image.Image]:
    def make() -> Image.Image:
        alpha = Image.fromarray((ink * 255 / 16).astype(np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
        cutout = Image.new("RGB", alpha.size, (colour[0], colour[1], colour[2]))
        cutout.putalpha(alpha)
        return cutout

    return make


def _open_own_photographs(split: str) -> list[Callable[[], Image.Image]]:
    """Return the photographs that come with scikit-learn: their left part to train on, the right one to validate."""
    from sklearn.datasets import load_sample_images

    found: list[Callable[[], Image.Image]] = []
    for pixels in load_sample_images().images:
        border = pixels.shape[1] * (VALIDATION_PART - 1) // VALIDATION_PART
        part = pixels[:, :border] if split == "training" else pixels[:, border:]
        found.append(partial(Image.fromarray, part))
    return found


def _list_objects(folder: Path) -> tuple[list[str], dict[str, list[tuple[int, Path]]], list[str]]:
    """Return class names, class and file of each image with alpha by split, and remarks on the others."""
    is_split = all((folder / split).is_dir() for split in SPLITS)
    places = {split: folder / split for split in SPLITS} if is_split else {"": folder}
    classes = sorted(
        {path.name for place in places.values() if place.is_dir() for path in place.iterdir() if path.is_dir()}
    )
    if not classes:
        raise UserError(f"{folder}: holds no class folders; images with alpha go to {folder}/CLASS/NAME.png")
    files: dict[str, list[tuple[int, Path]]] = {split: [] for split in SPLITS}
    others: list[Path] = []
    for chosen, place in places.items():
        for label, name in enumerate(classes, start=1):
            for path in sorted(path for path in (place / name).rglob("*") if is_image(path.name)):
                if _has_alpha(path):
                    files[chosen or _choose_split(path)].append((label, path))
                else:
                    others.append(path)
    if not any(files.values()):
        raise UserError(f"{folder}: none of its {len(others)} images has an alpha channel to cut it out by")
    remarks = [f"{len(others)} images without alpha were left out, {others[0]} for one"] if others else []
    return classes, files, remarks


def _list_backgrounds(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if is_image(path.name)) if folder.is_dir() else []
    if not files:
        raise UserError(f"{folder}: holds no images for backgrounds")
    return files


def _choose_split(path: Path) -> str:
    """Return the split of an image: by its name, so that other images change nothing."""
    return SPLITS[1] if derive_seed("scene split", path.name) % VALIDATION_PART == 0 else SPLITS[0]


def _open_objects(files: Sequence[tuple[int, Path]]) -> list[tuple[int, Callable[[], Image.Image]]]:
    return [(label, partial(_open_object, path)) for label, path in files]


def _choose_files(files: Sequence[Path], split: str) -> list[Callable[[], Image.Image]]:
    return [partial(_open_background, path) for path in files if _choose_split(path) == split]


def _has_alpha(path: Path) -> bool:
    try:
        image = open_image(path.read_bytes())
    except UndecodableImageError:
        return False
    return "A" in image.mode or "transparency" in image.info


def _open_object(path: Path) -> Image.Image:
    return open_image(path.read_bytes()).convert("RGBA")


def _open_background(path: Path) -> Image.Image:
    return decode_image(path.read_bytes())

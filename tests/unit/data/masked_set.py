"""Small sets of images with masks, in which a pixel's colour tells its class."""

from pathlib import Path

import numpy as np
from PIL import Image

from hornet.shards.build.build import build
from hornet.shards.build.plan import BuildPlan

COLOURS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)
CLASSES = ("red", "green", "blue")


def make_classes(seed: int, *, height: int = 60, width: int = 80) -> np.ndarray:
    """Classes of an image of 3 x 4 rectangles, red the most of them."""
    coarse = np.random.default_rng(seed).choice(3, (3, 4), p=(0.6, 0.3, 0.1))
    return np.kron(coarse, np.ones((height // 3, width // 4), int)).astype(np.uint8)


def write_folders(folder: Path, *, num_images: int = 9, split: str = "training") -> None:
    """ADE20K's layout: value 0 is no class, in the first row of each mask."""
    for kind in ("images", "annotations"):
        (folder / kind / split).mkdir(parents=True, exist_ok=True)
    for number in range(num_images):
        classes = make_classes(number, height=60 + 3 * number)
        values = classes + 1
        values[0] = 0
        Image.fromarray(COLOURS[classes]).save(folder / "images" / split / f"p{number}.png")
        Image.fromarray(values).save(folder / "annotations" / split / f"p{number}.png")
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")


def build_set(folder: Path, *, num_images: int = 9) -> Path:
    """Splits train and validation of the same images, in shards of 4; return the set's folder."""
    write_folders(folder / "source", num_images=num_images)
    for split in ("train", "validation"):
        build(
            BuildPlan(
                source=folder / "source",
                output=folder / "set",
                name="masked",
                split=split,
                source_split="training",
                classes=str(folder / "source/classes.txt"),
                reduce_zero_label=True,
                samples_per_shard=4,
                num_workers=1,
            )
        )
    return folder / "set"

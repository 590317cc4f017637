"""Losses and hits of each validation image, of runs that kept them (evaluation.per_image): a level of the intervals."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 5e-3
"""Of the mean, relative: losses are kept in half precision."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageValues:
    """A run's metric of each validation image, in the order of the keys."""

    key_hash: NDArray[np.int64]
    """(images,) hash of each image's key (`hash_key`), rising."""
    values: NDArray[np.float64]
    """(images,); their mean is the run's value."""


def read_image_values(
    folder: Path, *, step: int, weights: str, metric: Literal["loss", "top1_error"], value: float
) -> ImageValues | None:
    """Return what the evaluation after `step` kept in a run directory; None if nothing, or nothing that fits `value`.

    The file may be a stranger's: nothing of it is unpickled.
    """
    path = folder / "per_image" / f"step_{step:08d}_{weights}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            keys = np.asarray(file["key_hash"], dtype=np.int64)
            values = file["loss"].astype(np.float64) if metric == "loss" else 1.0 - file["hit"].astype(np.float64)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    if len(keys) == 0 or values.shape != keys.shape:
        return None
    if not abs(float(values.mean()) - value) <= TOLERANCE * abs(value):
        return None
    return ImageValues(key_hash=keys, values=values)


def explain_images(found: Sequence[ImageValues | None]) -> tuple[bool, str]:
    """Return whether the images can be sampled for all runs at once, and a sentence that says so or why not."""
    kept = [each for each in found if each is not None]
    if not kept:
        return False, "no level of the intervals: no run kept its images' losses (evaluation.per_image)"
    if len(kept) < len(found):
        lost = f"{len(found) - len(kept)} of {len(found)} runs kept no losses of images that fit their value"
        return False, f"no level of the intervals: {lost} (evaluation.per_image)"
    if any(not np.array_equal(each.key_hash, kept[0].key_hash) for each in kept):
        return False, "no level of the intervals: runs were evaluated on different images"
    return True, f"{len(kept[0].key_hash)}, sampled once for all runs: a level of the intervals"

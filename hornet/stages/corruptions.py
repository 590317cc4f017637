"""Corrupted images: which there are in a folder as ImageNet-C's, or are made here, and the errors over all of them.

Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations (ICLR 2019,
arXiv 1903.12261), section 3.2: the errors over five severities are summed, divided by AlexNet's, and averaged over 15
corruptions. The four of its `extra` folder are reported and do not count. AlexNet's are errors on ImageNet-1K at 224
pixels; of anything else there is the mean error and no mCE.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hornet.data.config import EvaluationConfig
from hornet.data.corruptions.names import COUNTED, EXTRA, SEVERITIES, list_departures
from hornet.errors import UserError
from hornet.shards.indexing.tar_list import is_tar_list
from hornet.shards.manifest import MANIFEST_NAME, fingerprint_split, is_url, read_manifest
from hornet.stages.config import EvaluateConfig

if TYPE_CHECKING:
    from hornet.data.corruptions.corruption import Corruption
    from hornet.data.loader import EvaluationStream

ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""AlexNet's mean errors over the severities at 224 pixels, as the authors' hendrycks/robustness gives them."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """Images that are evaluated in one pass."""

    corruption: str | None
    """What was done to them, as fog/3; None for nothing."""
    data: EvaluationConfig
    """The set, and how its images are brought to the network."""
    corrupt: Corruption | None = None
    """What remains to be done to each image then."""


@dataclass(frozen=True, kw_only=True)
class CorruptionResult:
    """Errors over all corruptions."""

    errors: Mapping[str, tuple[float, ...]]
    """By corruption: the share of images missed at severities 1 to 5, 0 to 1."""
    normalised: Mapping[str, float]
    """By corruption of the 15: the sum of its errors over AlexNet's, in percent; empty where those do not apply."""
    mean_error: float | None
    """Mean error in percent over those of the 15 that are there; None without any."""
    mce: float | None
    """Mean of `normalised` in percent; None unless all of the 15 are there and AlexNet's errors apply."""
    reason: str | None
    """Why there is no mCE."""
    missing: tuple[str, ...]
    """Of the 15, those that are not there."""


def list_images(data: EvaluationConfig, *, names: Sequence[str]) -> tuple[list[Images], bool]:
    """Return what is evaluated, and whether it is made here: of a set first its own images, then those that are made.

    `names` chooses corruptions, all if empty. Raises UserError if they are to be read from a folder that lacks them, or
    to be made without scipy.
    """
    place = str(data.shards)
    if not _is_set(data):
        found = list_corrupted(place)
        lacking = [name for name in names if name not in {name for name, _ in found}]
        if lacking:
            raise UserError(f"corruption_names: {place} holds no sets of {', '.join(lacking)}")
        return [
            Images(corruption=f"{name}/{severity}", data=replace(data, shards=f"{place}/{name}/{severity}"))
            for name, severity in found
            if not names or name in names
        ], False
    made = [
        Images(corruption=f"{name}/{severity}", data=data, corrupt=make_corruption(name, severity))
        for name in (*COUNTED, *EXTRA)
        if not names or name in names
        for severity in SEVERITIES
    ]
    return [Images(corruption=None, data=data), *made], True


def identify(config: EvaluateConfig, first: EvaluationStream) -> tuple[str, str]:
    """Return the name and fingerprint of what is evaluated, of which `first` is opened: a set or a folder of sets.

    Raises UserError as `list_images`.
    """
    data = config.evaluation
    if not config.corruptions or _is_set(data):
        return first.name, first.manifest_fingerprint
    root = Path(str(data.shards))
    parts = []
    for name, severity in list_corrupted(root):
        manifest = read_manifest(root / name / str(severity))
        parts.append(fingerprint_split(manifest.split(data.split), manifest.label_space))
    return root.resolve().name, hashlib.sha256("".join(parts).encode()).hexdigest()


def plan_images(config: EvaluateConfig) -> tuple[list[Images], tuple[str, ...]]:
    """Return what is evaluated, and how corruptions that are made here differ from ImageNet-C's, a sentence each.

    Raises UserError as `list_images`.
    """
    if not config.corruptions:
        return [Images(corruption=None, data=config.evaluation)], ()
    images, are_made = list_images(config.evaluation, names=config.corruption_names)
    names = config.corruption_names or (*COUNTED, *EXTRA)
    sizes = config.sizes or (config.evaluation.image_size,)
    departures = (line for size in sizes for line in list_departures(names, image_size=size))
    return images, tuple(dict.fromkeys(departures)) if are_made else ()


def _is_set(data: EvaluationConfig) -> bool:
    place = str(data.shards)
    return is_tar_list(place) or is_url(place) or not Path(place).is_dir() or (Path(place) / MANIFEST_NAME).exists()


def make_corruption(name: str, severity: int) -> Corruption:
    """Return a corruption that is made here; raises UserError without scipy."""
    try:
        from hornet.data.corruptions.corruption import Corruption
    except ImportError as error:
        raise UserError(
            f"corruptions: are made with scipy, which is missing ({error}); run `pip install scipy`"
        ) from error
    return Corruption(name=name, severity=severity)


def list_corrupted(folder: Path | str) -> list[tuple[str, int]]:
    """Return the corruptions and severities whose sets lie in a folder, as gaussian_noise/3, in the paper's order.

    Raises UserError for a corruption that is not known, for one without all five severities, and if there are none.
    """
    root = Path(folder)
    found: dict[str, set[str]] = {}
    for path in sorted(root.glob(f"*/*/{MANIFEST_NAME}")):
        found.setdefault(path.parts[-3], set()).add(path.parts[-2])
    if not found:
        raise UserError(
            f"corruptions: {root} holds no sets as gaussian_noise/3/{MANIFEST_NAME}; build one of each folder of "
            "ImageNet-C with `python launch/shards.py build`, or give a set, of whose images they are made"
        )
    known = (*COUNTED, *EXTRA)
    for name, severities in found.items():
        if name not in known:
            raise UserError(f"corruptions: {root / name} is none of ImageNet-C's: {', '.join(known)}")
        wanted = {str(severity) for severity in SEVERITIES}
        if severities != wanted:
            wrong = sorted(wanted - severities) or sorted(severities - wanted)
            raise UserError(
                f"corruptions: {root / name} must hold a set for each severity, 1 to 5, and nothing else "
                f"({', '.join(wrong)} {'is missing' if wanted - severities else 'is none'})"
            )
    return [(name, severity) for name in known if name in found for severity in SEVERITIES]


def summarise(errors: Mapping[tuple[str, int], float], *, is_imagenet: bool) -> CorruptionResult:
    """Return the corruption errors, from the share of images missed (0 to 1) by corruption and severity.

    `is_imagenet` says that these are errors on ImageNet-1K at 224 pixels, so that AlexNet's apply.
    """
    names = list(dict.fromkeys(name for name, _ in errors))
    rows = {name: tuple(errors[name, severity] for severity in SEVERITIES) for name in names}
    normalised = {
        name: 100 * sum(rows[name]) / (len(SEVERITIES) * ALEXNET_ERRORS[name])
        for name in names
        if name in ALEXNET_ERRORS and is_imagenet
    }
    missing = tuple(name for name in COUNTED if name not in rows)
    counted = [error for name in COUNTED if name in rows for error in rows[name]]
    reason = None
    if not is_imagenet:
        reason = "it compares with AlexNet's errors, which are those on ImageNet-1K at 224 pixels"
    elif missing:
        reason = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
    return CorruptionResult(
        errors=rows,
        normalised=normalised,
        mean_error=100 * sum(counted) / len(counted) if counted else None,
        mce=None if reason else sum(normalised.values()) / len(normalised),
        reason=reason,
        missing=missing,
    )

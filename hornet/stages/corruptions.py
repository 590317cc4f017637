"""ImageNet-C: which sets there are in a folder, and the mean corruption error over them.

Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations (ICLR 2019,
arXiv 1903.12261), section 3.2: the errors over five severities are summed, divided by AlexNet's, and averaged over 15
corruptions. The four of its `extra` folder are reported and do not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hornet.errors import UserError
from hornet.shards.manifest import MANIFEST_NAME

SEVERITIES = (1, 2, 3, 4, 5)

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
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")


@dataclass(frozen=True, kw_only=True)
class CorruptionResult:
    """Errors over a folder of corrupted sets."""

    errors: Mapping[str, tuple[float, ...]]
    """By corruption: the share of images missed at severities 1 to 5, 0 to 1."""
    normalised: Mapping[str, float]
    """By corruption of the 15: the sum of its errors over AlexNet's, in percent."""
    mce: float | None
    """Mean of `normalised` in percent; None unless all of the 15 are there."""
    missing: tuple[str, ...]
    """Of the 15, those that are not there."""


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
            "ImageNet-C with `python launch/shards.py build`"
        )
    known = (*ALEXNET_ERRORS, *EXTRA)
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


def summarise(errors: Mapping[tuple[str, int], float]) -> CorruptionResult:
    """Return the corruption errors, from the share of images missed (0 to 1) by corruption and severity."""
    names = list(dict.fromkeys(name for name, _ in errors))
    rows = {name: tuple(errors[name, severity] for severity in SEVERITIES) for name in names}
    normalised = {
        name: 100 * sum(rows[name]) / (len(SEVERITIES) * ALEXNET_ERRORS[name])
        for name in names
        if name in ALEXNET_ERRORS
    }
    missing = tuple(name for name in ALEXNET_ERRORS if name not in rows)
    mce = None if missing else sum(normalised.values()) / len(normalised)
    return CorruptionResult(errors=rows, normalised=normalised, mce=mce, missing=missing)

"""What the corruptions are called, and where ours depart from those that were published; needs no scipy.

Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations (ICLR 2019,
arXiv 1903.12261). The constants of each are those of the authors' program, hendrycks/robustness @e0377d4,
ImageNet-C/create_c/make_imagenet_c.py.
"""

from __future__ import annotations

SEVERITIES = (1, 2, 3, 4, 5)

COUNTED = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
"""The 15 over which the paper takes its mean, in its order."""
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""The four that it keeps for validation."""

STORED = "images are not stored as JPEG of quality 85 in between, as ImageNet-C's files are"
OTHER_SIZE = "lengths are the pixels that were published for images of 224 (elastic_transform's are shares of the edge)"
DEPARTURES = {
    "frost": "frost: a synthesised texture in place of the authors' photographs of ice",
    "spatter": "spatter: exact distances to the edges of drops in place of a 5 x 5 mask's",
}
NATIVE_SIZE = 224


def list_departures(names: tuple[str, ...], *, image_size: int) -> tuple[str, ...]:
    """Say, a sentence each, how corruptions that are made here differ from ImageNet-C's."""
    found = [STORED, *(DEPARTURES[name] for name in names if name in DEPARTURES)]
    return (*found, *([OTHER_SIZE] if image_size != NATIVE_SIZE else []))

"""Noise: of electronics, of few photons, of faulty bits, and in proportion to the light.

All corruptions take (H, W, 3) levels of 0 to 1, a severity of 1 to 5 and a generator, and return levels that are not
yet cut to 0..1. Generators are numpy's legacy ones, whose draws never change (NEP 19).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Levels = npt.NDArray[np.float64]
Random = np.random.RandomState


def add_gaussian_noise(image: Levels, severity: int, random: Random) -> Levels:
    """Add noise of one deviation everywhere."""
    deviation = (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1]
    return image + random.normal(scale=deviation, size=image.shape)


def add_shot_noise(image: Levels, severity: int, random: Random) -> Levels:
    """Count photons, of which a white pixel has few."""
    photons = (60, 25, 12, 5, 3)[severity - 1]
    return random.poisson(image * photons) / photons


def add_impulse_noise(image: Levels, severity: int, random: Random) -> Levels:
    """Turn a share of the values, each channel by itself, to black or white."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    is_hit = random.uniform(size=image.shape) < share
    return np.where(is_hit, random.randint(2, size=image.shape), image)


def add_speckle_noise(image: Levels, severity: int, random: Random) -> Levels:
    """Add noise in proportion to the level."""
    deviation = (0.15, 0.2, 0.35, 0.45, 0.6)[severity - 1]
    return image + image * random.normal(scale=deviation, size=image.shape)

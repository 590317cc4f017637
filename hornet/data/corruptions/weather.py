"""Weather: snow, frost, fog, and what is splashed at the lens."""

from __future__ import annotations

import numpy as np

from hornet.data.corruptions.drops import shade_drops
from hornet.data.corruptions.noise import Levels, Random
from hornet.data.corruptions.optics import drag, make_clouds, smooth, zoom_into

GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in luma (ITU-R BT.601)."""
ICE = (0.72, 0.83, 0.92)
"""Colour of frost."""
WATER = (175 / 255, 238 / 255, 238 / 255)
MUD = (63 / 255, 42 / 255, 20 / 255)


def let_it_snow(image: Levels, severity: int, random: Random) -> Levels:
    """Whiten the image, and let flakes fall that wind and shutter have stretched, from both sides."""
    mean, deviation, size, least, radius, sigma, kept = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[severity - 1]
    flakes = zoom_into(random.normal(mean, deviation, size=image.shape[:2]), size)
    flakes = np.trunc(np.clip(np.where(flakes < least, 0, flakes), 0, 1) * 255) / 255
    flakes = drag(flakes, radius=int(radius), sigma=sigma, degrees=random.uniform(-135, -45))[..., None]
    whitened = np.maximum(image, (image @ GREY)[..., None] * 1.5 + 0.5)
    return kept * image + (1 - kept) * whitened + flakes + flakes[::-1, ::-1]


def freeze(image: Levels, severity: int, random: Random) -> Levels:
    """Lay frost over the image."""
    kept, added = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[severity - 1]
    return kept * image + added * make_frost(*image.shape[:2], random=random)


def make_frost(height: int, width: int, *, random: Random) -> Levels:
    """Return (height, width, 3) of ice, in the place of the authors' photographs: bright ridges on a dull ground.

    Ridges are where two clouds are equal, of three kinds, from broad to fine.
    """
    ice = np.full((height, width), 0.12)
    for decay, share, sharpness in ((2, 0.28, 6), (1.6, 0.3, 5), (1.2, 0.3, 4)):
        one, other = (make_clouds(height, width, decay=decay, random=random) for _ in range(2))
        ice += share * (1 - np.abs(one - other)) ** sharpness
    found: Levels = ice[..., None] * ICE
    return found


def let_fog_rise(image: Levels, severity: int, random: Random) -> Levels:
    """Add clouds, and darken all so that the brightest pixel could not become brighter than it was."""
    strength, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[severity - 1]
    brightest = image.max()
    fog = make_clouds(*image.shape[:2], decay=decay, random=random)[..., None]
    found: Levels = (image + strength * fog) * brightest / (brightest + strength)
    return found


def spatter(image: Levels, severity: int, random: Random) -> Levels:
    """Splash water at the lens, from severity 4 on mud."""
    mean, deviation, sigma, least, strength, is_mud = (
        (0.65, 0.3, 4, 0.69, 0.6, False),
        (0.65, 0.3, 3, 0.68, 0.6, False),
        (0.65, 0.3, 2, 0.68, 0.5, False),
        (0.65, 0.3, 1, 0.65, 1.5, True),
        (0.67, 0.4, 1, 0.65, 1.5, True),
    )[severity - 1]
    liquid = smooth(random.normal(mean, deviation, size=image.shape[:2]), sigma)
    if is_mud:
        cover = smooth((liquid > least).astype(np.float64), strength)
        cover = np.where(cover < 0.8, 0, cover)[..., None]
        return image * (1 - cover) + cover * MUD
    drops = np.trunc(np.where(liquid < least, 0, np.clip(liquid, 0, 1)) * 255)
    shaded = drops * shade_drops(drops)
    found: Levels = image + (strength * shaded / max(shaded.max(), 1))[..., None] * WATER
    return found

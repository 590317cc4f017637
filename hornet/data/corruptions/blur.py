"""Blur: out of focus, through frosted glass, by motion, by zooming in, by a Gaussian."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hornet.data.corruptions.noise import Levels, Random
from hornet.data.corruptions.optics import drag, filter_evenly, make_disk, smooth, zoom_into


def defocus(image: Levels, severity: int, random: Random) -> Levels:
    """Put the lens out of focus."""
    radius, soft = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[severity - 1]
    return filter_evenly(image, make_disk(radius, soft=soft))


def see_through_glass(image: Levels, severity: int, random: Random) -> Levels:
    """Smooth, let pixels take the place of near ones, smooth again."""
    sigma, reach, num_rounds = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[severity - 1]
    levels = np.trunc(smooth(image, sigma) * 255 + 1e-4) / 255
    height, width = image.shape[:2]
    sources = scatter(height, width, reach=reach, num_rounds=num_rounds, random=random)
    return smooth(levels.reshape(-1, 3)[sources].reshape(image.shape), sigma)


def scatter(height: int, width: int, *, reach: int, num_rounds: int, random: Random) -> npt.NDArray[np.int64]:
    """Return which pixel, counted along rows, is seen at each place (height * width,).

    From the lower right to the upper left each pixel takes what is then seen up to `reach` away. The published program
    means to exchange the two, but its arrays are views, so that one is copied over the other; so here.
    """
    seen = list(range(height * width))
    rows, columns = np.arange(height - reach, reach, -1), np.arange(width - reach, reach, -1)
    places = (rows[:, None] * width + columns).ravel()
    for _ in range(num_rounds):
        right, down = random.randint(-reach, reach, size=(len(places), 2)).T
        for place, source in zip(places.tolist(), (places + down * width + right).tolist(), strict=True):
            seen[place] = seen[source]
    return np.array(seen)


def move(image: Levels, severity: int, random: Random) -> Levels:
    """Move the camera to the right, up to 45 degrees up or down."""
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity - 1]
    return drag(image, radius=radius, sigma=sigma, degrees=random.uniform(-45, 45))


def zoom(image: Levels, severity: int, random: Random) -> Levels:
    """Come nearer while the shutter is open."""
    stop, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[severity - 1]
    factors = np.arange(1, stop, step)
    total = image.copy()
    for factor in factors.tolist():
        total += zoom_into(image, factor)
    return total / (len(factors) + 1)


def blur_with_gaussian(image: Levels, severity: int, random: Random) -> Levels:
    """Filter with a Gaussian."""
    return smooth(image, (1, 2, 3, 4, 6)[severity - 1])

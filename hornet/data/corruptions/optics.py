"""What lenses and cameras that move do: filters that the blurs and the weather share.

Where the authors' program calls OpenCV, scikit-image or ImageMagick, these are their filters by definition.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage, signal

from hornet.data.corruptions.noise import Levels, Random


def smooth(image: Levels, sigma: float) -> Levels:
    """Filter (H, W) or (H, W, C) with a Gaussian of `sigma` pixels; beyond the edge its last pixel goes on."""
    sigmas = (sigma, sigma, *(0,) * (image.ndim - 2))
    found: Levels = ndimage.gaussian_filter(image, sigmas, mode="nearest", truncate=4)
    return found


def filter_evenly(image: Levels, kernel: Levels) -> Levels:
    """Filter (H, W, C) with a symmetric kernel of odd edges; the image is mirrored at its edge's last pixel."""
    margins = [(length // 2, length // 2) for length in kernel.shape]
    padded = np.pad(image, [*margins, (0, 0)], mode="reflect")
    found: Levels = signal.fftconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1))
    return found


def make_disk(radius: int, *, soft: float) -> Levels:
    """Return the image of a point out of focus: a disk whose edge a Gaussian of `soft` pixels has smoothed."""
    reach = max(8, radius)
    taps = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    line = np.arange(-reach, reach + 1)
    disk = (line[:, None] ** 2 + line**2 <= radius**2).astype(np.float64)
    disk /= disk.sum()
    weights = np.exp(-(taps**2) / (2 * soft**2))
    for axis in (0, 1):
        disk = ndimage.correlate1d(disk, weights / weights.sum(), axis=axis, mode="mirror")
    return disk


def drag(image: Levels, *, radius: int, sigma: float, degrees: float) -> Levels:
    """Average each pixel with those that lie in a direction, as ImageMagick's motion blur does.

    Of 2 radius + 1 pixels the i-th weighs as a Gaussian of `sigma` at i; 0 degrees is to the right, 90 down. Levels
    come back as whole 255ths.
    """
    angle = math.radians(degrees)
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    reach = 2 * radius
    padded = np.pad(image, [(reach, reach), (reach, reach), *[(0, 0)] * (image.ndim - 2)], mode="edge")
    height, width = image.shape[:2]
    dragged = np.zeros_like(image)
    for distance, weight in enumerate(weights / weights.sum()):
        down, right = (reach + math.ceil(distance * part - 0.5) for part in (math.sin(angle), math.cos(angle)))
        dragged += weight * padded[down : down + height, right : right + width]
    return np.round(dragged * 255) / 255


def zoom_into(image: Levels, factor: float) -> Levels:
    """Enlarge the middle of (N, N) or (N, N, C) by a factor of at least 1, in between linearly, to the same size."""
    size = len(image)
    kept = math.ceil(size / factor)
    start = (size - kept) // 2
    middle = image[start : start + kept, start : start + kept]
    enlarged = _stretch(_stretch(middle, round(kept * factor)).swapaxes(0, 1), round(kept * factor)).swapaxes(0, 1)
    start = (len(enlarged) - size) // 2
    return enlarged[start : start + size, start : start + size]


def _stretch(image: Levels, count: int) -> Levels:
    """Interpolate linearly between the rows of an image, of which the first and the last stay."""
    places = np.linspace(0, len(image) - 1, count)
    above = np.minimum(places.astype(np.int64), len(image) - 2)
    share = (places - above).reshape(-1, *(1,) * (image.ndim - 1))
    found: Levels = image[above] * (1 - share) + image[above + 1] * share
    return found


def make_plasma(size: int, *, decay: float, random: Random) -> Levels:
    """Return (size, size) clouds of 0 to 1 by midpoint displacement on a torus; `size` is a power of two.

    The centre of each square, then that of each edge, is the mean of its four neighbours, displaced by up to the
    square of an amplitude that is divided by `decay` from one scale to the next finer one.
    """
    field = np.zeros((size, size))
    amplitude, step = 100.0, size

    def displace(sums: Levels) -> Levels:
        return sums / 4 + amplitude * random.uniform(-amplitude, amplitude, sums.shape)

    while step >= 2:
        half = step // 2
        corners = field[::step, ::step]
        above = corners + np.roll(corners, -1, axis=0)
        centres = displace(above + np.roll(above, -1, axis=1))
        across = corners + np.roll(corners, -1, axis=1) + centres + np.roll(centres, 1, axis=0)
        down = corners + np.roll(corners, -1, axis=0) + centres + np.roll(centres, 1, axis=1)
        field[half::step, half::step] = centres
        field[::step, half::step] = displace(across)
        field[half::step, ::step] = displace(down)
        step, amplitude = half, amplitude / decay
    field -= field.min()
    found: Levels = field / field.max()
    return found


def make_clouds(height: int, width: int, *, decay: float, random: Random) -> Levels:
    """Return (height, width) of a plasma, which has 256 pixels a side or the next power of two."""
    size = 1 << (max(256, height, width) - 1).bit_length()
    return make_plasma(size, decay=decay, random=random)[:height, :width]

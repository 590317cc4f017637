"""How drops of water on a lens look: darker and lighter by how far a pixel is from their edges.

All arrays are (H, W) of whole levels from 0 to 255.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from hornet.data.corruptions.noise import Levels

FARTHEST = 20
RELIEF = ((-2, -1, 0), (-1, 1, 1), (0, 1, 2))
"""Light that falls from the upper left."""
EIGHT = np.ones((3, 3))


def shade_drops(drops: Levels) -> Levels:
    """Return the shading of drops: distances from edges, their levels spread evenly, embossed, smoothed."""
    edges = find_edges(drops, low=50, high=150)
    far = np.full(drops.shape, float(FARTHEST))
    distance = np.minimum(ndimage.distance_transform_edt(~edges), FARTHEST) if edges.any() else far
    levels = equalize(np.trunc(ndimage.uniform_filter(distance, 3, mode="mirror")))
    embossed = np.clip(ndimage.correlate(levels, np.array(RELIEF, dtype=np.float64), mode="mirror"), 0, 255)
    found: Levels = np.round(ndimage.uniform_filter(embossed, 3, mode="mirror"))
    return found


def find_edges(levels: Levels, *, low: float, high: float) -> npt.NDArray[np.bool_]:
    """Find edges as Canny (1986): ridges of the gradient over `low` that hang together with one over `high`.

    The gradient is Sobel's, its length the sum of the magnitudes, its direction one of four.
    """
    right, down = (ndimage.sobel(levels, axis=axis, mode="nearest") for axis in (1, 0))
    length = np.abs(right) + np.abs(down)
    around = np.pad(length, 1)
    slope = np.abs(down) / np.maximum(np.abs(right), 1e-9)
    is_level, is_steep = slope < np.tan(np.pi / 8), slope > np.tan(3 * np.pi / 8)
    falls = (right * down) > 0
    is_ridge = np.zeros(levels.shape, dtype=bool)
    ways = (
        (is_level, (0, 1)),
        (is_steep, (1, 0)),
        (~is_level & ~is_steep & falls, (1, 1)),
        (~is_level & ~is_steep & ~falls, (1, -1)),
    )
    height, width = levels.shape
    for applies, (row, column) in ways:
        before = around[1 - row : 1 - row + height, 1 - column : 1 - column + width]
        behind = around[1 + row : 1 + row + height, 1 + column : 1 + column + width]
        is_ridge |= applies & (length > before) & (length >= behind)
    groups, _ = ndimage.label(is_ridge & (length > low), structure=EIGHT)
    strong = np.unique(groups[is_ridge & (length > high)])
    return np.isin(groups, strong[strong > 0])


def equalize(levels: Levels) -> Levels:
    """Spread whole levels so that all are about equally frequent; the lowest becomes 0, the highest 255."""
    whole = levels.astype(np.int64)
    counts = np.bincount(whole.ravel(), minlength=256)
    lowest = int(counts.nonzero()[0][0])
    above = whole.size - counts[lowest]
    if above == 0:
        return levels
    table = np.round((np.cumsum(counts) - counts[lowest]) * (255 / above)).clip(0, 255)
    found: Levels = table[whole]
    return found

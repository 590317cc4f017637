"""One corruption of one severity, done to an image by its key: the same pixels in whatever batch, on whatever rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hornet.data.corruptions import blur, digital, noise, weather
from hornet.data.corruptions.names import COUNTED, EXTRA, SEVERITIES
from hornet.data.corruptions.noise import Levels, Random
from hornet.seeding import derive_seed

Pixels = npt.NDArray[np.uint8]

ALMOST = 1e-4
"""Added to what is cut to whole levels, as the published program cuts them: a float a little below one becomes it."""

CORRUPTIONS: dict[str, Callable[[Levels, int, Random], Levels]] = {
    "gaussian_noise": noise.add_gaussian_noise,
    "shot_noise": noise.add_shot_noise,
    "impulse_noise": noise.add_impulse_noise,
    "defocus_blur": blur.defocus,
    "glass_blur": blur.see_through_glass,
    "motion_blur": blur.move,
    "zoom_blur": blur.zoom,
    "snow": weather.let_it_snow,
    "frost": weather.freeze,
    "fog": weather.let_fog_rise,
    "brightness": digital.brighten,
    "contrast": digital.reduce_contrast,
    "elastic_transform": digital.transform_elastically,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.compress,
    "speckle_noise": noise.add_speckle_noise,
    "gaussian_blur": blur.blur_with_gaussian,
    "spatter": weather.spatter,
    "saturate": digital.saturate,
}
assert tuple(CORRUPTIONS) == (*COUNTED, *EXTRA)


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """What is done to each image of a set."""

    name: str
    """One of CORRUPTIONS."""
    severity: int
    """1 to 5."""

    def __post_init__(self) -> None:
        if self.name not in CORRUPTIONS or self.severity not in SEVERITIES:
            raise ValueError(f"{self.name}/{self.severity}: is no corruption with a severity of 1 to 5")

    def __call__(self, pixels: Pixels, *, key: str) -> Pixels:
        """Return (H, W, 3) uint8 pixels of such an image, H and W at least 32; `key` is SHARD/STEM.

        Nothing but the pixels, the key and the corruption matters: no generator of the process is touched.
        """
        random = np.random.RandomState(np.random.Philox(key=derive_seed("corrupt", key, self.name, self.severity)))
        corrupted = CORRUPTIONS[self.name](pixels / 255, self.severity, random)
        return (np.clip(corrupted, 0, 1) * 255 + ALMOST).astype(np.uint8)

"""Settings of the data of instance segmentation: images with objects, their augmentation, how they are evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hornet.config import Settings
from hornet.data.config import EvaluatedSetConfig, TrainedSetConfig

MIN_EDGE_PIXELS = 32
"""The stride of the network."""


@dataclass(frozen=True, kw_only=True)
class InstanceTransformConfig(Settings):
    """Augmentation of an image and its objects together: scale and flip.

    Source: the original's object_detection/configs (raoyongming/HorNet at ac9e210) and the schedules they build on.
    """

    short_edges: tuple[int, ...] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    """Lengths of the shorter edge, pixels, of which one is drawn for each image."""
    max_long_edge: int = 1333
    """Pixels that the longer edge may have; an image that would exceed them is made smaller than was drawn."""
    flip_probability: float = 0.5
    """Of mirroring left and right."""

    def _find_problems(self) -> Iterator[str]:
        if not self.short_edges or min(self.short_edges) < MIN_EDGE_PIXELS:
            yield (
                f"short_edges: must name lengths of at least {MIN_EDGE_PIXELS} pixels, the stride of the network, not "
                f"{list(self.short_edges)}"
            )
        elif self.max_long_edge < max(self.short_edges):
            yield (
                f"max_long_edge: must be at least the longest of short_edges ({max(self.short_edges)}), not "
                f"{self.max_long_edge}"
            )
        if not 0 <= self.flip_probability <= 1:
            yield f"flip_probability: must be a probability from 0 to 1, not {self.flip_probability}"


@dataclass(frozen=True, kw_only=True)
class InstanceStreamConfig(TrainedSetConfig):
    """The training stream of images with objects: a split's samples in the order of the run, augmented."""

    transform: InstanceTransformConfig
    """Scale and flip of each image."""


@dataclass(frozen=True, kw_only=True)
class InstanceEvaluationConfig(EvaluatedSetConfig):
    """A set of images with objects, each measured once."""

    short_edge: int = 800
    """Pixels that the shorter edge of an image is scaled to."""
    max_long_edge: int = 1333
    """Pixels that the longer edge may have; an image that would exceed them is made smaller."""

    def _find_problems(self) -> Iterator[str]:
        yield from super()._find_problems()
        if self.short_edge < MIN_EDGE_PIXELS:
            yield (
                f"short_edge: must be at least {MIN_EDGE_PIXELS} pixels, the stride of the network, not "
                f"{self.short_edge}"
            )
        if self.max_long_edge < self.short_edge:
            yield f"max_long_edge: must be at least short_edge ({self.short_edge}), not {self.max_long_edge}"

"""Settings of the data of instance segmentation: images with objects, their augmentation, how they are evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hornet.config import Settings
from hornet.data.config import EvaluatedSetConfig, TrainedSetConfig

MIN_EDGE_PIXELS = 32
"""The stride of the network."""


@dataclass(frozen=True, kw_only=True)
class InstanceCropConfig(Settings):
    """A random part of some images: scaled, cut out, and scaled again as an image that was not cut.

    Source: as InstanceTransformConfig's, which have it from DETR (arXiv 2005.12872) and Sparse R-CNN.
    """

    probability: float = 0.5
    """Of an image being cut."""
    short_edges: tuple[int, ...] = (400, 500, 600)
    """Lengths of the shorter edge, pixels, of which one is drawn: what an image is scaled to before it is cut."""
    min_edge: int = 384
    """Least height and width of what is cut out, pixels of the scaled image; all of it where it has fewer."""
    max_edge: int = 600
    """Largest height and width; both are drawn by themselves, each length as likely."""

    def _find_problems(self) -> Iterator[str]:
        if not 0 < self.probability <= 1:
            yield f"probability: must be over 0 and at most 1, not {self.probability}; for no crops leave crop out"
        if not self.short_edges or min(self.short_edges) < 1:
            yield f"short_edges: must name lengths of at least 1 pixel, not {list(self.short_edges)}"
        if not 1 <= self.min_edge <= self.max_edge:
            yield f"min_edge: must be at least 1 pixel and at most max_edge ({self.max_edge}), not {self.min_edge}"


@dataclass(frozen=True, kw_only=True)
class InstanceTransformConfig(Settings):
    """Augmentation of an image and its objects together: scale, crop and flip.

    Source: the original's object_detection/configs (raoyongming/HorNet at ac9e210) and the schedules they build on.
    """

    short_edges: tuple[int, ...] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    """Lengths of the shorter edge, pixels, of which one is drawn for each image."""
    max_long_edge: int = 1333
    """Pixels that the longer edge may have; an image that would exceed them is made smaller than was drawn."""
    crop: InstanceCropConfig | None = None
    """Random parts of images, before they are scaled; null for whole images alone."""
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
    """Scale, crop and flip of each image."""


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

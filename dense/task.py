"""What both tasks have in common: where the draws of a step come from, and how images get to the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from dense.config import DenseConfig, InstancesConfig
from hornet.batch import Batch
from hornet.data.augment.mixing import normalise
from hornet.data.loader import EvaluationStream
from hornet.seeding import derive_seed
from hornet.shards.label_space import LabelSpace
from hornet.training.rendering import render_images
from hornet.world import World

Config = TypeVar("Config", DenseConfig, InstancesConfig)


@dataclass(frozen=True, kw_only=True)
class DenseTask(Generic[Config]):
    """What is learned, apart from network and engine."""

    config: Config
    """Normalising, weights of losses, how images are evaluated."""
    label_space: LabelSpace
    """Names of the classes, in the order of the heads' channels."""
    labelled: EvaluationStream | None
    """The set to evaluate on."""
    num_micro_steps: int
    """Micro batches of each rank in a step."""
    world: World
    """Which of how many ranks this process is."""
    device: torch.device
    """Device that this rank computes on."""
    beat: Callable[[], None]
    """Called before each forward pass."""

    def derive_step_seed(self, step: int, micro_step: int) -> int:
        """Return the seed of every random draw on the device in one forward pass.

        Those of drop path and dropout, and of a detector's choice of boxes to learn from.
        """
        number = self.world.rank * self.num_micro_steps + micro_step
        return derive_seed("device", self.config.run.seed, step, number)

    def render_images(self, batch: Batch, step: int) -> Tensor:
        """Return an image (3, H, W) of what the network saw in a micro batch; nothing of it depends on the step."""
        return render_images(self.normalise(batch), mean=self.config.mean, std=self.config.std)

    def normalise(self, batch: Batch) -> Tensor:
        """Return (B, 3, H, W) float32 images on the device, and tell the watchdog that there is life."""
        self.beat()
        return normalise(batch, mean=self.config.mean, std=self.config.std, device=self.device)

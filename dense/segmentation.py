"""Semantic segmentation: how a batch becomes a loss, a set with masks an evaluation, and an evaluation an image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.utils import make_grid

from dense.config import DenseConfig
from dense.rendering import make_colours
from dense.task import DenseTask
from hornet.batch import Batch
from hornet.dense.inference import measure, predict
from hornet.shards.mask import IGNORED
from hornet.stages.classification import require_readable
from hornet.training.confusion import SegmentationEvaluation
from hornet.training.image_results import ImageResults

TILE_PIXELS = 192
"""Edge of each image, mask and prediction among those that are shown."""


class Segmentation(DenseTask[DenseConfig]):
    """What is learned: the class of every pixel."""

    def compute_loss(self, model: Callable[[Tensor], tuple[Tensor, Tensor]], batch: Batch, seed: int) -> Tensor:
        """Return the loss (0-dim, fp32) of a micro batch: of the decoder, and of the auxiliary head, weighted."""
        assert batch.masks_bhw is not None
        images = self.normalise(batch)
        masks = batch.masks_bhw.to(self.device, non_blocking=True).long()
        torch.manual_seed(seed)  # drop path and dropout draw from the global generators
        logits, auxiliary = model(images)
        return average_over_pixels(logits, masks) + self.config.model.auxiliary_weight * average_over_pixels(
            auxiliary, masks
        )

    def evaluate(self, model: nn.Module, images: ImageResults | None = None) -> SegmentationEvaluation:
        """Evaluate a model in eval mode on the set with masks. Collective.

        Raises UserError on all ranks if too many images could not be read.
        """
        assert self.labelled is not None
        assert self.config.evaluation is not None
        assert images is None, "what is measured is no property of an image"
        evaluation = measure(
            model,
            self.labelled.iterate(),
            config=self.config.evaluation,
            num_classes=len(self.label_space),
            normalise=self.normalise,
            device=self.device,
        )
        require_readable(evaluation, self.labelled)
        return evaluation

    def render_predictions(self, model: nn.Module) -> Tensor:
        """Return an image (3, H, W) of the first images of the set: each beside its mask and what the model says."""
        assert self.labelled is not None
        assert self.config.evaluation is not None
        tiles = []
        for sample in range(min(self.config.num_rendered_images, self.labelled.num_samples)):
            batch = self.labelled.read([sample])
            if not batch.is_real.all() or batch.masks_bhw is None:
                continue
            classes = predict(model, self.normalise(batch), self.config.evaluation).argmax(dim=1).cpu()
            for pixels in (batch.images_bchw / 255, render_masks(batch.masks_bhw), render_masks(classes)):
                tiles.append(functional.interpolate(pixels, size=(TILE_PIXELS, TILE_PIXELS), mode="nearest"))
        if not tiles:
            return torch.zeros(3, 1, 1)
        rendered: Tensor = make_grid(torch.cat(tiles), nrow=3, padding=2, pad_value=1.0)
        return rendered


def average_over_pixels(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the cross entropy of logits (B, K, H, W), summed over the pixels that have a class, over all pixels.

    As mmsegmentation's: pixels of no class count in the mean, with nothing.
    """
    total = functional.cross_entropy(logits.float(), masks, ignore_index=IGNORED, reduction="sum")
    return total / masks.numel()


def render_masks(masks_bhw: Tensor) -> Tensor:
    """Return masks (B, H, W) as images (B, 3, H, W) of values in 0..1: a colour for each class, black for none."""
    num_colours = max(1, int(masks_bhw.max()) + 1)
    table = torch.tensor([*make_colours(num_colours), (0.0, 0.0, 0.0)])
    return table[masks_bhw.long()].permute(0, 3, 1, 2)  # -1, no class, is the last row

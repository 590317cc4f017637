"""Instance segmentation: how a batch becomes losses, an annotated set an evaluation, and an evaluation an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dense.config import InstancesConfig
from dense.rendering import lay_side_by_side, render_instances
from dense.task import DenseTask
from hornet.batch import Batch
from hornet.dense.instance_inference import detect, measure_instances
from hornet.stages.classification import require_readable
from hornet.training.average_precision import AveragePrecision, DetectionEvaluation
from hornet.training.detection_results import DetectionResults
from hornet.training.image_results import ImageResults
from hornet.training.process_group import errors_shared

MIN_SHOWN_SCORE = 0.3
"""Score from which on a prediction is rendered."""


@dataclass(frozen=True, kw_only=True)
class InstanceSegmentation(DenseTask[InstancesConfig]):
    """What is learned: things, their boxes and masks."""

    results: DetectionResults | None = None
    """Where what is found by an evaluation is written; None for nowhere."""

    def compute_loss(self, model: Callable[..., dict[str, Tensor]], batch: Batch, seed: int) -> Tensor:
        """Return the loss (0-dim, fp32) of a micro batch: the sum of the detector's, of which each has its weight."""
        assert batch.instances is not None
        images = self.normalise(batch)
        targets = [
            {
                "boxes": image.boxes.to(self.device, non_blocking=True),
                "labels": image.labels.to(self.device, non_blocking=True),
                "masks": image.masks.to(self.device, non_blocking=True),
            }
            for image in batch.instances
        ]
        torch.manual_seed(seed)  # drop path, and torchvision's choice of boxes, draw from the global generators
        losses = model(images, [image.size for image in batch.instances], targets)
        return torch.stack([loss.float() for loss in losses.values()]).sum()

    def evaluate(self, model: nn.Module, images: ImageResults | None = None) -> DetectionEvaluation:
        """Evaluate a model in eval mode on the annotated set. Collective.

        Raises UserError on all ranks if too many images could not be read, or the results cannot be written.
        """
        assert self.labelled is not None
        assert images is None, "what is measured is no property of an image"
        precision = AveragePrecision(len(self.label_space))
        evaluation = measure_instances(model, self.labelled.iterate(), precision=precision, normalise=self.normalise)
        require_readable(evaluation, self.labelled)
        if self.results is not None:
            with errors_shared():
                if self.world.is_main:
                    self.results.write(precision.gathered)
        return evaluation

    def render_predictions(self, model: nn.Module) -> Tensor:
        """Return an image (3, H, W) of the first images of the set: as annotated, and beside it as the model says."""
        assert self.labelled is not None
        names = self.label_space.classes
        tiles = []
        for sample in range(min(self.config.num_rendered_images, self.labelled.num_samples)):
            batch = self.labelled.read([sample])
            if not batch.is_real.all() or batch.instances is None:
                continue
            [image], [found] = batch.instances, detect(model, self.normalise(batch), batch)
            height, width = image.size
            pixels = batch.images_bchw[0, :, :height, :width]
            is_sure = found.scores >= MIN_SHOWN_SCORE
            tiles += [
                render_instances(pixels, image.boxes, image.masks, labels=image.labels, names=names, size=image.size),
                render_instances(
                    pixels,
                    found.boxes[is_sure],
                    found.masks[is_sure],
                    labels=found.labels[is_sure],
                    names=names,
                    size=image.original_size,
                ),
            ]
        return lay_side_by_side(tiles)

    def normalise(self, batch: Batch) -> Tensor:
        """As of any task; what is beside and below the images is 0, as if filled up after normalising."""
        assert batch.instances is not None
        images = super().normalise(batch)
        for pixels, image in zip(images, batch.instances, strict=True):
            height, width = image.size
            pixels[:, height:] = 0
            pixels[:, :, width:] = 0
        return images

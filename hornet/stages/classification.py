"""Image classification: how a batch becomes a loss, a labelled set an evaluation, and a step an image.

Here data meets training; hornet/stages/stage.py adds a model, the stages their engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn

from hornet.batch import Batch
from hornet.data.augment.mixing import normalise, prepare
from hornet.data.config import MixingConfig
from hornet.data.loader import EvaluationStream
from hornet.errors import UserError
from hornet.model.build import LAYER_SCALE, translate_layer_scale
from hornet.model.config import ModelConfig
from hornet.seeding import derive_seed
from hornet.shards.label_report import describe_space, explain_mismatch
from hornet.shards.label_space import LabelSpace, read_label_space
from hornet.training.average_precision import DetectionEvaluation
from hornet.training.checkpoints.checkpoint import MANIFEST, Checkpoint
from hornet.training.confusion import SegmentationEvaluation
from hornet.training.evaluate import Evaluation, evaluate
from hornet.training.image_results import ImageResults
from hornet.training.rendering import render_images
from hornet.world import World

_soft_cross_entropy = SoftTargetCrossEntropy()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, kw_only=True)
class Classification:
    """What is learned, apart from network and engine."""

    mixing: MixingConfig
    """Normalising, mixup, cutmix, label smoothing."""
    label_space: LabelSpace
    """Class names in the order of the head's rows."""
    labelled: EvaluationStream | None
    """The set to evaluate on."""
    seed: int
    """The run's seed, from which every draw derives."""
    num_micro_steps: int
    """Micro batches of each rank in a step."""
    world: World
    """Which of how many ranks this process is."""
    device: torch.device
    """Device that this rank computes on."""
    beat: Callable[[], None]
    """Called before each forward pass. A hook of the network would break its compiled graph."""

    @property
    def num_classes(self) -> int:
        """Classes of the label space."""
        return len(self.label_space)

    def derive_step_seed(self, step: int, micro_step: int) -> int:
        """Return the seed of every random draw on the device in one forward pass: mixing, erasing, drop path.

        Micro batches are counted over the whole global batch, so other ranks draw the same for the same images as long
        as the micro batch size stays.
        """
        return derive_seed("device", self.seed, step, self.world.rank * self.num_micro_steps + micro_step)

    def compute_loss(self, model: Callable[[Tensor], Tensor], batch: Batch, seed: int) -> Tensor:
        """Return the mean cross entropy (0-dim, fp32) of a micro batch against its soft targets."""
        self.beat()
        inputs = prepare(batch, config=self.mixing, num_classes=self.num_classes, device=self.device, seed=seed)
        torch.manual_seed(seed)  # drop path draws from the global generators
        loss: Tensor = _soft_cross_entropy(model(inputs.images_bchw).float(), inputs.targets_bk)
        return loss

    def evaluate(self, model: nn.Module, images: ImageResults | None = None) -> Evaluation:
        """Evaluate a model in eval mode on the labelled set, each image into `images` if given. Collective.

        Raises UserError on all ranks if too many images could not be read.
        """
        assert self.labelled is not None

        def prepare_images(batch: Batch) -> Tensor:
            self.beat()
            return normalise(batch, mean=self.mixing.mean, std=self.mixing.std, device=self.device)

        batches = self.labelled.iterate()
        evaluation = evaluate(model, batches, normalise=prepare_images, device=self.device, images=images)
        require_readable(evaluation, self.labelled)
        return evaluation

    def render_images(self, batch: Batch, step: int) -> Tensor:
        """Return an image (3, H, W) of what the network saw in the first micro batch of the 0-based `step`."""
        seed = self.derive_step_seed(step, 0)
        inputs = prepare(batch, config=self.mixing, num_classes=self.num_classes, device=self.device, seed=seed)
        return render_images(inputs.images_bchw, mean=self.mixing.mean, std=self.mixing.std)


def require_readable(
    evaluation: Evaluation | SegmentationEvaluation | DetectionEvaluation, labelled: EvaluationStream
) -> None:
    """Raise UserError if more images could not be read than the set's config allows."""
    if evaluation.num_bad_images > labelled.max_bad_sample_rate * labelled.num_samples:
        raise UserError(
            f"{evaluation.num_bad_images} of {labelled.num_samples} images to evaluate on could not be read, "
            f"more than evaluation.max_bad_sample_rate={labelled.max_bad_sample_rate:g} allows; "
            "copy the shards again, or raise it to leave such images out"
        )


def require_same_labels(evaluated: LabelSpace, trained: LabelSpace) -> None:
    """Raise UserError if the labelled set numbers its classes differently from the training set."""
    if evaluated.fingerprint != trained.fingerprint:
        raise UserError(
            f"evaluation.shards: its labels are of {describe_space(evaluated)}, those trained on of "
            f"{describe_space(trained)}: {explain_mismatch(evaluated, trained)}"
        )


def require_labels_of_checkpoint(checkpoint: Checkpoint, label_space: LabelSpace) -> None:
    """Raise UserError if a run that goes on would give its labels another meaning."""
    before = read_label_space(checkpoint.description["label_space"], source=checkpoint.folder / MANIFEST)
    run = checkpoint.folder.parent.parent  # runs/NAME of runs/NAME/checkpoints/step_00000300
    is_start = "task" not in checkpoint.description  # what segments or detects is no start of another run
    other = f"finetune under another run.name with start.from={run}" if is_start else "choose another run.name"
    if before.fingerprint != label_space.fingerprint:
        raise UserError(
            f"data.shards: its labels are of {describe_space(label_space)}, but {checkpoint.folder} was trained on "
            f"{describe_space(before)}; go on with that set, or {other}"
        )


def describe_weights(
    *, model: ModelConfig, image_size: int, mixing: MixingConfig, label_space: LabelSpace
) -> dict[str, Any]:
    """Return what a reader of a checkpoint's weights needs besides them, as JSON values."""
    # A ViT has layer scales or has none; those of HorNet are weights in any case.
    scale = {name: value for name, value in translate_layer_scale(model).items() if name != LAYER_SCALE}
    arguments = {**(model.arguments or {}), **scale}
    resize = model.resize if model.resize != "bilinear" else None
    own = {"module": model.module, "arguments": arguments, "resize": resize}
    return {
        "model": model.name,
        **{key: value for key, value in own.items() if value},
        "image_size": image_size,
        "mean": list(mixing.mean),
        "std": list(mixing.std),
        "label_space": label_space.to_json(),
    }

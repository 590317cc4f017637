"""The configs of runs that learn semantic segmentation, or instances: boxes and masks of things."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hornet.config import Settings, resumable
from hornet.data.config import IMAGENET_MEAN, IMAGENET_STD, Channels
from hornet.data.division import find_batch_problems
from hornet.data.instances_config import InstanceEvaluationConfig, InstanceStreamConfig
from hornet.data.segmentation_config import SegmentationEvaluationConfig, SegmentationStreamConfig
from hornet.dense.config import DetectorConfig, SegmenterConfig
from hornet.runs.directory import RunConfig
from hornet.training.config import (
    CadenceConfig,
    GuardConfig,
    OptimizerConfig,
    ProfileConfig,
    RetentionConfig,
    StepScheduleConfig,
    TrackingConfig,
    Weights,
    find_best_problems,
)


@dataclass(frozen=True, kw_only=True)
class BackboneStartConfig:
    """Where the backbone's weights come from."""

    from_: Path
    """A run directory, a checkpoint folder in one, or a weight file (.pth, .safetensors) or a folder of one."""
    weights: Weights = "raw"
    """Which weights of a checkpoint or file to take: the last step's, or their moving average."""


@dataclass(frozen=True, kw_only=True)
class DenseSettings(Settings):
    """What runs of both tasks have."""

    run: RunConfig
    """Name, place and seed."""
    start: BackboneStartConfig | None = None
    """Where the backbone's weights come from; null for fresh ones. The heads are always fresh."""
    mean: Channels = IMAGENET_MEAN
    """Subtracted from red, green and blue in 0..1."""
    std: Channels = IMAGENET_STD
    """What the difference is divided by."""
    optimizer: OptimizerConfig
    """AdamW, layer decay, clipping, EMA."""
    schedule: StepScheduleConfig
    """Length of the run and learning rates."""
    cadence: CadenceConfig
    """How often to log, save, evaluate, render images."""
    checkpoints: RetentionConfig = field(default_factory=RetentionConfig)
    """How checkpoints are written, and which are kept."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """Steps that are dropped, batches that are left out, going back."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Who is shown the run: TensorBoard, Weights & Biases."""
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    """Steps of rank 0 that are profiled."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """bf16: forward and backward under autocast; parameters and optimizer are fp32 in both."""
    num_rendered_images: int = resumable(4)
    """Images of the evaluation set that are shown after each evaluation, beside truth and prediction; 0 for none."""
    global_batch_size: int
    """Images per optimizer step, over all ranks; gradient accumulation follows from it."""

    def _find_problems(self) -> Iterator[str]:
        if self.run.branch_from is not None:
            yield "run.branch_from: is for schedules of shape wsd, which runs of this task have not; leave it out"
        if min(self.std) <= 0:
            yield f"std: must be over 0 in each channel, not {self.std}"
        if self.num_rendered_images < 0:
            yield f"num_rendered_images: must be 0 or more, not {self.num_rendered_images}"
        has_set = getattr(self, "evaluation", None) is not None
        yield from find_best_problems(self.checkpoints, self.cadence, has_set=has_set)
        yield from find_batch_problems(self.global_batch_size, getattr(self, "micro_batch_size", 1))


@dataclass(frozen=True, kw_only=True)
class DenseConfig(DenseSettings):
    """One run: UPerNet on a HorNet learns the class of every pixel."""

    task: Literal["semantic"] = "semantic"
    """semantic: the class of every pixel."""
    model: SegmenterConfig
    """Backbone and heads."""
    data: SegmentationStreamConfig
    """Images with masks, their order and the augmentation."""
    evaluation: SegmentationEvaluationConfig | None = None
    """Images with masks to evaluate on; null for none."""
    micro_batch_size: int = resumable()
    """Images per forward pass and rank, at least 2: the heads take statistics over them."""


@dataclass(frozen=True, kw_only=True)
class InstancesConfig(DenseSettings):
    """One run: a detector on a HorNet learns what things there are, their boxes and masks."""

    task: Literal["instances"]
    """instances: the boxes and masks of things."""
    model: DetectorConfig
    """Backbone, pyramid and heads."""
    data: InstanceStreamConfig
    """Images with their annotations, their order and the augmentation."""
    evaluation: InstanceEvaluationConfig | None = None
    """Images with their annotations to evaluate on; null for none."""
    micro_batch_size: int = resumable()
    """Images per forward pass and rank."""


TASKS: Mapping[str, type[DenseConfig] | type[InstancesConfig]] = {"semantic": DenseConfig, "instances": InstancesConfig}
"""The config of each value of `task`; a file without one is of the first."""


@dataclass(frozen=True, kw_only=True)
class EvaluateDenseSettings(Settings):
    """Which network of a run of either task to evaluate."""

    source: Path
    """A run of `launch/dense.py`, or a checkpoint folder in one."""
    weights: Weights = "raw"
    """The last step's, or their moving average."""
    precision: Literal["bf16", "fp32"]
    """bf16: under autocast; by default the run's own."""


@dataclass(frozen=True, kw_only=True)
class EvaluateSegmenterConfig(EvaluateDenseSettings):
    """Which segmenter to evaluate, and how its images are seen."""

    evaluation: SegmentationEvaluationConfig
    """The images with masks; by default those of the run, seen as it sees them."""


@dataclass(frozen=True, kw_only=True)
class EvaluateInstancesConfig(EvaluateDenseSettings):
    """Which detector to evaluate, and how its images are seen."""

    evaluation: InstanceEvaluationConfig
    """The annotated images; by default those of the run, seen as it sees them."""
    results: Path | None = None
    """A folder for what is found, as COCO's server takes it: bbox.json and segm.json; null for none."""

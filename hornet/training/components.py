"""What a stage brings to a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hornet.batch import Batch
from hornet.training.config import CadenceConfig, GuardConfig, ProfileConfig, RetentionConfig, TrackingConfig, Weights
from hornet.training.evaluate import Evaluate
from hornet.training.loop import Engine
from hornet.training.schedule import PolySchedule, Schedule


@dataclass(frozen=True, kw_only=True)
class Components:
    """One run, as a session sees it."""

    engine: Engine
    """Model, optimizer and ranks behind one Protocol."""
    identity: Mapping[str, Any]
    """What a checkpoint must have been written with to fit this run; JSON values."""
    description: Mapping[str, Any]
    """What a reader of the checkpoint's weights needs; JSON values."""
    about: Mapping[str, Any]
    """What summary.json says of the run from its config and its sets: digest, seed, image size, ...; JSON values."""
    parameter_shapes: Mapping[str, tuple[int, ...]]
    """Every parameter's whole shape, by name."""
    flops_per_image: float
    """Floating point operations of training on one image: forward and backward pass, without recomputation."""
    iterate: Callable[[int, int], Iterator[Batch]]
    """Called with (first step, number of steps): this rank's micro batches from there on."""
    num_micro_steps: int
    """Micro batches of each rank in a step."""
    steps_per_epoch: float
    """Optimizer steps per pass over the data."""
    global_batch_size: int
    """Images a step, over all ranks."""
    schedule: Schedule | PolySchedule
    """Number of steps and learning rates."""
    cadence: CadenceConfig
    """How often to log, save, evaluate, render images."""
    checkpoints: RetentionConfig
    """How checkpoints are written, and which are kept."""
    weight_decay: float
    """Decoupled weight decay, for the rows of metrics."""
    max_bad_sample_rate: float
    """Share of bad samples above which the run fails."""
    guard: GuardConfig
    """Which steps are dropped, and what follows from it."""
    evaluate: Evaluate | None
    """Evaluates a model in eval mode; None where there is no labelled set."""
    keeps_image_results: bool
    """Whether the last evaluation's results of each image are written."""
    evaluated_weights: Sequence[Weights]
    """Which weights an evaluation measures, in this order: raw, ema."""
    tracking: TrackingConfig
    """Who is shown the run."""
    profile: ProfileConfig
    """Which steps of rank 0 are profiled."""
    filters: Sequence[str]
    """Names of the parameters that are global filters, to be rendered."""
    render_images: Callable[[Batch, int], Tensor]
    """Called with a micro batch and its 0-based step: an image (3, H, W) of what the network saw."""
    render_predictions: Callable[[nn.Module], Tensor] | None = None
    """Called on rank 0 with a model in eval mode after each evaluation: an image (3, H, W) of what it says of some."""

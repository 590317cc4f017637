"""The config of a finetuning run: the parts' own settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hornet.config import free
from hornet.data.loader import EvaluationConfig, StreamConfig
from hornet.data.mixing import MixingConfig
from hornet.model.build import ModelConfig
from hornet.run_directory import RunConfig
from hornet.training.loop import CadenceConfig
from hornet.training.optimizer import OptimizerConfig
from hornet.training.schedule import ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """Where the weights come from."""

    from_: Path
    """A run directory, a checkpoint folder in one, or a weight file (.pth, .safetensors) in the original layout."""
    weights: Literal["raw", "ema"] = "raw"
    """Which weights of a checkpoint to take: the last step's, or their moving average."""
    label_space: Path | None = None
    """For a weight file: the `_info.json` or list of class names (one a line) of its head; null if unknown."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """One finetuning run."""

    run: RunConfig
    """Name, place and seed."""
    start: StartConfig
    """Where the weights come from."""
    model: ModelConfig
    """The network."""
    data: StreamConfig
    """Shards, their order and the augmentation."""
    mixing: MixingConfig
    """What happens to whole batches on the device: normalising, mixup, cutmix, label smoothing."""
    evaluation: EvaluationConfig
    """The labelled set to evaluate on."""
    optimizer: OptimizerConfig
    """AdamW, layer decay, clipping, EMA."""
    schedule: ScheduleConfig
    """Length and learning rate."""
    cadence: CadenceConfig
    """How often to log, save, evaluate, draw."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """bf16: forward and backward under autocast; parameters and optimizer are fp32 in both."""
    global_batch_size: int
    """Images per optimizer step, over all ranks; gradient accumulation follows from it."""
    micro_batch_size: int = free()
    """Images per forward pass and rank."""

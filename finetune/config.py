"""The config of a finetuning run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hornet.field_types import NameOrPath
from hornet.stages.config import StageConfig


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """Where the weights come from."""

    from_: Path
    """A run directory, a checkpoint folder in one, or a weight file (.pth, .safetensors) or a folder of one."""
    weights: Literal["raw", "ema"] = "raw"
    """Which weights of a checkpoint or file to take: the last step's, or their moving average."""
    label_space: NameOrPath | None = None
    """For a weight file, what its head means: a known name (`launch/shards.py labels` lists them, HorNet's released
    weights are hornet-22k), an `_info.json`, or a list of class names, one a line; null if unknown, which of a HorNet
    with a known number of rows is guessed."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(StageConfig):
    """One finetuning run."""

    start: StartConfig
    """Where the weights come from."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """bf16: forward and backward under autocast; parameters and optimizer are fp32 in both."""

"""The config of a pretraining run, and the rules that involve two of its parts."""

from __future__ import annotations

from dataclasses import dataclass

from hornet.stage import StageConfig
from hornet.training.engines.zero_config import ZeroConfig


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(StageConfig):
    """One pretraining run."""

    zero: ZeroConfig
    """DeepSpeed ZeRO and precision."""

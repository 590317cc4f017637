"""The config of a pretraining run: the parts' own settings, and the rules that involve two parts."""

from __future__ import annotations

from dataclasses import dataclass

from hornet.config import free
from hornet.data.loader import EvaluationConfig, StreamConfig
from hornet.data.mixing import MixingConfig
from hornet.model.build import ModelConfig
from hornet.run_directory import RunConfig
from hornet.training.engines.zero_config import ZeroConfig
from hornet.training.loop import CadenceConfig
from hornet.training.optimizer import OptimizerConfig
from hornet.training.schedule import ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One pretraining run."""

    run: RunConfig
    """Name, place and seed."""
    model: ModelConfig
    """The network."""
    data: StreamConfig
    """Shards, their order and the augmentation."""
    mixing: MixingConfig
    """What happens to whole batches on the device: normalising, mixup, cutmix, label smoothing."""
    evaluation: EvaluationConfig | None = None
    """A labelled set to evaluate on; null for none."""
    optimizer: OptimizerConfig
    """AdamW, clipping, EMA."""
    schedule: ScheduleConfig
    """Length and learning rate."""
    zero: ZeroConfig
    """DeepSpeed ZeRO and precision."""
    cadence: CadenceConfig
    """How often to log, save, evaluate, draw."""
    global_batch_size: int
    """Images per optimizer step, over all ranks; gradient accumulation follows from it."""
    micro_batch_size: int = free()
    """Images per forward pass and rank."""

    def __post_init__(self) -> None:
        if self.optimizer.ema_decay is not None and self.zero.stage == 3:
            raise ValueError("optimizer.ema_decay: is not available with zero.stage=3; use stage 0 to 2, or null")

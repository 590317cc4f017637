"""What a pretraining run is: shards -> stream -> mixing -> network under DeepSpeed ZeRO -> run directory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from hornet.stages.classification import Classification
from hornet.stages.micro_batch import EngineLoad
from hornet.stages.stage import run_stage
from hornet.training.checkpoints.checkpoint import Checkpoint
from hornet.training.engines.deepspeed import DeepSpeedEngine
from hornet.training.engines.zero_memory import count_deepspeed_bytes
from hornet.world import World
from pretrain.config import PretrainConfig, require_clipping


def pretrain(config: PretrainConfig, *, world: World) -> None:
    """Run, or resume, a pretraining run to its end. Every rank calls it. It starts from fresh weights."""

    def build_engine(model: nn.Module, task: Classification, _: Checkpoint | None) -> DeepSpeedEngine:
        require_clipping(config, num_micro_steps=task.num_micro_steps)
        return DeepSpeedEngine(
            model,
            config=config.zero,
            optimizer=config.optimizer,
            clipping=config.recipe.clipping,
            global_batch_size=config.global_batch_size,
            micro_batch_size=config.global_batch_size // (world.num_ranks * task.num_micro_steps),
            compute_loss=task.compute_loss,
            derive_step_seed=task.derive_step_seed,
            device=task.device,
        )

    def count_bytes(num_elements: Sequence[int]) -> int:
        return count_deepspeed_bytes(
            num_elements,
            config=config.zero,
            num_ranks=world.num_ranks,
            has_ema=config.optimizer.ema_decay is not None,
            offloads=torch.cuda.is_available(),
        ).total

    run_stage(
        config,
        world=world,
        engine_identity={"engine": "deepspeed"},
        engine_load=EngineLoad(precision=config.zero.precision, count_bytes=count_bytes),
        build_engine=build_engine,
    )

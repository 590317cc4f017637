"""What a pretraining run is: shards -> stream -> mixing -> HorNet under DeepSpeed ZeRO -> run directory."""

from __future__ import annotations

from hornet.model.hornet import HorNet
from hornet.stage import run_stage
from hornet.task import Classification
from hornet.training.checkpoint import Checkpoint
from hornet.training.engines.deepspeed import DeepSpeedEngine
from hornet.world import World
from pretrain.config import PretrainConfig


def pretrain(config: PretrainConfig, *, world: World) -> None:
    """Run, or resume, a pretraining run to its end. Every rank calls it. It starts from fresh weights."""

    def build_engine(model: HorNet, task: Classification, _: Checkpoint | None) -> DeepSpeedEngine:
        return DeepSpeedEngine(
            model,
            config=config.zero,
            optimizer=config.optimizer,
            global_batch_size=config.global_batch_size,
            micro_batch_size=config.micro_batch_size,
            compute_loss=task.compute_loss,
            derive_step_seed=task.derive_step_seed,
            device=task.device,
        )

    run_stage(config, world=world, engine_identity={"engine": "deepspeed"}, build_engine=build_engine)

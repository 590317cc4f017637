"""What a finetuning run is: pretrained weights, resized -> the same loop at a higher resolution, under Accelerate."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from finetune.config import FinetuneConfig
from finetune.start import fit_weights, name_released
from hornet.stages.classification import Classification
from hornet.stages.micro_batch import EngineLoad
from hornet.stages.pretrained import read_pretrained, tell_normalising
from hornet.stages.stage import run_stage
from hornet.training.checkpoints.checkpoint import Checkpoint
from hornet.training.clipping import require_halves
from hornet.training.engines.accelerate import AccelerateEngine
from hornet.training.engines.zero_memory import count_data_parallel_bytes
from hornet.training.process_group import errors_shared
from hornet.world import World


def finetune(config: FinetuneConfig, *, world: World) -> None:
    """Run, or resume, a finetuning run to its end. Every rank calls it. It starts from the weights of `start.from`."""

    def build_engine(model: nn.Module, task: Classification, checkpoint: Checkpoint | None) -> AccelerateEngine:
        require_halves(config.recipe.clipping, num_micro_steps=task.num_micro_steps)
        if checkpoint is None:
            start = config.start
            with errors_shared():
                pretrained = read_pretrained(start.from_, weights=start.weights, label_space=start.label_space)
                pretrained, remarks = name_released(pretrained)
                report = [*remarks, *fit_weights(pretrained, model, label_space=task.label_space)]
                report += tell_normalising(pretrained, mean=task.mixing.mean, std=task.mixing.std, key="mixing.")
            if world.is_main:
                print("\n".join(report), flush=True)
        return AccelerateEngine(
            model,
            precision=config.precision,
            optimizer=config.optimizer,
            compute_loss=task.compute_loss,
            derive_step_seed=task.derive_step_seed,
            device=task.device,
            is_main=world.is_main,
            clipping=config.recipe.clipping,
        )

    def count_bytes(num_elements: Sequence[int]) -> int:
        has_ema = config.optimizer.ema_decay is not None
        return count_data_parallel_bytes(num_elements, num_ranks=world.num_ranks, has_ema=has_ema).total

    run_stage(
        config,
        world=world,
        engine_identity={"engine": "accelerate"},
        engine_load=EngineLoad(precision=config.precision, count_bytes=count_bytes),
        build_engine=build_engine,
        start_from=config.start.from_,
    )

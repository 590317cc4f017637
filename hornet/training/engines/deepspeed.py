"""Training under DeepSpeed ZeRO, stages 0 to 3. The only file that calls deepspeed.

Its traps, met here on purpose (docs/log.md): parameters stay fp32 and the forward runs under autocast; the optimizer is
torch's own; `latest` and the moment a checkpoint counts belong to hornet/training/checkpoints/checkpoint.py.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hornet.batch import Batch
from hornet.training.clipping import is_clipped_after
from hornet.training.config import Clipping, OptimizerConfig, Weights
from hornet.training.ema import attach_ema, swap_with_ema
from hornet.training.engines.deepspeed_files import ZeroCheckpoint
from hornet.training.engines.deepspeed_private import (
    get_config,
    leave_out_recovery_scripts,
    leave_out_shared_memory_op,
    require_private_names,
    watch_norm,
)
from hornet.training.engines.deepspeed_state import fill, list_owners, list_slices, publish_weights
from hornet.training.engines.zero_config import ZeroConfig
from hornet.training.loop import Accept, ComputeLoss, StepResult, Writer
from hornet.training.norms import NormWatch
from hornet.training.optimizer import build_optimizer, set_lr
from hornet.training.process_group import average_over_ranks, errors_shared
from hornet.training.statistics import RunningStatistics
from hornet.training.step_clock import StepClock
from hornet.world import publish_accelerator

publish_accelerator("cuda" if torch.cuda.is_available() else "cpu")

import deepspeed  # noqa: E402  after the line above
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine  # noqa: E402


def make_deepspeed_config(
    config: ZeroConfig, *, global_batch_size: int, micro_batch_size: int, clip_grad_norm: float | None
) -> dict[str, Any]:
    """Make DeepSpeed's dictionary; there is no second file to disagree with ours."""
    offload: dict[str, Any] = {"offload_optimizer": {"device": "cpu", "pin_memory": torch.cuda.is_available()}}
    return {
        "train_batch_size": global_batch_size,
        "train_micro_batch_size_per_gpu": micro_batch_size,
        # At stage 0 the engine below clips: DeepSpeed's own clipping fails where a gradient was dropped.
        "gradient_clipping": clip_grad_norm if clip_grad_norm is not None and config.stage > 0 else 0.0,
        "steps_per_print": 10**9,  # it would print its own lines between ours
        "torch_autocast": {
            "enabled": config.precision == "bf16",
            "dtype": "bfloat16",
            # Gradients of these it would sum over ranks in bf16, which is 3 % off on 512 ranks (docs/scale.md).
            "lower_precision_safe_modules": [],
        },
        "zero_optimization": {
            "stage": config.stage,
            "overlap_comm": True,
            "contiguous_gradients": True,
            # ZeRO-3's own linear layer starts to act with the second forward, and rounds otherwise under autocast: a
            # resumed run would not be the undisturbed one.
            "memory_efficient_linear": False,
            "reduce_bucket_size": config.bucket_elements,
            "allgather_bucket_size": config.bucket_elements,
            **(offload if config.offload_optimizer else {}),
        },
        # torch's AdamW steps on the host as it does on the device; DeepSpeed's own would be compiled at the start.
        "zero_force_ds_cpu_optimizer": False,
        "checkpoint": {"tag_validation": "Fail"},
    }


class DeepSpeedEngine:
    """A model, its optimizer and the ranks, as hornet.training.loop.Engine describes."""

    def __init__(
        self,
        model: nn.Module,
        *,
        config: ZeroConfig,
        optimizer: OptimizerConfig,
        global_batch_size: int,
        micro_batch_size: int,
        compute_loss: ComputeLoss,
        derive_step_seed: Callable[[int, int], int],
        device: torch.device,
        clipping: Clipping = "standard",
    ) -> None:
        _quieten(device)
        self._clipping: Clipping = clipping
        self._stage = config.stage
        self._clip_grad_norm = optimizer.clip_grad_norm
        self._precision = config.precision
        self._device = device
        self._compute_loss = compute_loss
        self._derive_step_seed = derive_step_seed
        model = model.to(device)
        self._statistics = RunningStatistics(model)
        self.clock = StepClock(device)
        self._base_optimizer = build_optimizer(model, optimizer)
        if optimizer.ema_decay is not None:
            attach_ema(self._base_optimizer, decay=optimizer.ema_decay)
        settings = make_deepspeed_config(
            config,
            global_batch_size=global_batch_size,
            micro_batch_size=micro_batch_size,
            clip_grad_norm=optimizer.clip_grad_norm,
        )
        self._engine, *_ = deepspeed.initialize(model=model, optimizer=self._base_optimizer, config=settings)
        require_private_names(self._engine, stage=self._stage)
        # At stage 0 every rank steps all there is; rank 0 measures it.
        is_measured = self._stage > 0 or dist.get_rank() == 0
        slices = list_slices(self._engine, stage=self._stage, rank=dist.get_rank()) if is_measured else []
        self.norms = NormWatch(self._base_optimizer, slices)
        self._files = _Files(get_config(self._engine))
        self._engine.checkpoint_engine = self._files
        watch_norm(self._engine, stage=self._stage, decide=self._decide)
        leave_out_recovery_scripts(self._engine)

    def run_step(self, batches: Sequence[Batch], *, step: int, lr: float, accept: Accept) -> StepResult:
        """See Engine."""
        self._engine.train()
        set_lr(self._engine.optimizer.param_groups, lr)
        earlier = self._statistics.copy()
        losses: list[Tensor] = []
        self._norm, self._is_accepted, self._is_decided = math.inf, False, False
        self._accept: Callable[[float], bool] = lambda norm: accept(torch.stack(losses).mean(), norm)
        for micro_step, batch in enumerate(batches):
            with self.clock.measure("forward"):
                loss = self._compute_loss(self._engine, batch, self._derive_step_seed(step, micro_step))
            with self.clock.measure("backward"), self._statistics.held():
                self._engine.backward(loss)
            losses.append(loss.detach())
            with self.clock.measure("optimizer"):
                if micro_step == len(batches) - 1:
                    if self._stage == 0:  # else DeepSpeed clips
                        self._clip_unsharded()
                elif is_clipped_after(micro_step, num_micro_steps=len(batches), clipping=self._clipping):
                    self._clip_accumulating()
                self._engine.step()
        if not self._is_decided:  # ZeRO measures no norm where it has seen that the gradient is not finite
            self._decide(self._norm)
        with self.clock.measure("optimizer"):
            self._statistics.end_step(was_applied=self._is_accepted, earlier=earlier)
        return StepResult(loss=torch.stack(losses).mean(), grad_norm=self._norm, was_applied=self._is_accepted)

    def _decide(self, norm: float) -> bool:
        """Ask the guard about a gradient of this norm."""
        self._norm, self._is_decided = norm, True
        self._is_accepted = self._accept(norm) and math.isfinite(norm)
        return self._is_accepted

    def _clip_unsharded(self) -> None:
        """Clip at stage 0; drop a gradient that is not finite or not accepted, as ZeRO's optimizers do.

        At stage 0 DeepSpeed reports no norm and would let NaN reach the weights. Without gradients AdamW skips every
        parameter: weights, moments and step counts stay.
        """
        norm = float(nn.utils.clip_grad_norm_(self._engine.module.parameters(), self._clip_grad_norm or math.inf))
        if not self._decide(norm):
            self._base_optimizer.zero_grad(set_to_none=True)

    def _clip_accumulating(self) -> None:
        """Clip, at stage 0, what has accumulated over all ranks before the step's last micro batch.

        DeepSpeed averages after the last one: of what is equal on all ranks by then, the average is the same again.
        """
        gradients = [parameter.grad for parameter in self._engine.module.parameters() if parameter.grad is not None]
        average_over_ranks(gradients)
        nn.utils.clip_grad_norm_(self._engine.module.parameters(), self._clip_grad_norm or math.inf)

    def save(self, folder: Path, writer: Writer) -> None:
        """See Engine. The files are DeepSpeed's own, so that its zero_to_fp32 reads them too (stages 1 to 3)."""
        self._files.writer = writer
        self._engine.save_checkpoint(str(folder.parent), tag=folder.name, save_latest=False)

    def load(self, folder: Path) -> None:
        """See Engine. Any stage and number of ranks may have written the folder; each rank reads what it needs."""
        with errors_shared():
            checkpoint = ZeroCheckpoint(folder)
            fill(self._engine, checkpoint, stage=self._stage, rank=dist.get_rank(), base=self._base_optimizer)
        publish_weights(self._engine, stage=self._stage)

    @contextmanager
    def evaluation_model(self, weights: Weights) -> Iterator[nn.Module]:
        """See Engine."""
        if weights == "ema":
            self._swap_ema()
        self._engine.eval()
        autocast = torch.autocast(self._device.type, torch.bfloat16) if self._precision == "bf16" else nullcontext()
        try:
            with torch.no_grad(), autocast:
                yield self._engine.module
        finally:
            self._engine.train()
            if weights == "ema":
                self._swap_ema()

    def _swap_ema(self) -> None:
        swap_with_ema(self._base_optimizer, list_owners(self._engine, stage=self._stage))
        publish_weights(self._engine, stage=self._stage)

    def read_parameters(self, names: Sequence[str]) -> dict[str, Tensor]:
        """See Engine."""
        parameters = dict(self._engine.module.named_parameters())
        tensors = parameters | dict(self._engine.module.named_buffers())
        wanted = [parameters[name] for name in names if name in parameters]
        with deepspeed.zero.GatheredParameters(wanted, enabled=self._stage == 3):
            return {name: tensors[name].detach().cpu().clone() for name in names}


class _Files(TorchCheckpointEngine):  # type: ignore[misc]  # deepspeed has no types
    """What DeepSpeed takes for a disk: it hands everything to the run's own writer. Nothing is loaded through it."""

    writer: Writer

    def save(self, state_dict: Any, path: str) -> None:
        self.writer.take(Path(path), state_dict)


def _quieten(device: torch.device) -> None:
    """Leave DeepSpeed's warnings, drop its running commentary; on the CPU skip an op that needs a compiler and 26 s."""
    logger = logging.getLogger("DeepSpeed")
    logger.setLevel(logging.WARNING)
    # A dropped step is told by the guard, which knows the reason.
    logger.addFilter(lambda record: "OVERFLOW! Skipping step" not in record.getMessage())
    # DeepSpeed 0.19 calls collectives under names that torch 2.13 has renamed, and would say so at every step.
    warnings.filterwarnings("ignore", category=FutureWarning, message=r"`torch\.distributed\.")
    if device.type == "cpu":
        leave_out_shared_memory_op()

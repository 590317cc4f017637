"""Training under Accelerate: plain data parallelism, or one process. The only file that calls accelerate."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, GradientAccumulationPlugin
from torch import Tensor, nn

from hornet.batch import Batch
from hornet.errors import UserError
from hornet.training.checkpoints.unpickling import load_pickled
from hornet.training.clipping import is_clipped_after
from hornet.training.config import Clipping, OptimizerConfig, Weights
from hornet.training.ema import attach_ema, read_ema_by_name, swap_with_ema
from hornet.training.loop import Accept, ComputeLoss, StepResult, Writer
from hornet.training.norms import NormWatch, Slice
from hornet.training.optimizer import build_optimizer, require_same_parameters, set_lr
from hornet.training.process_group import errors_shared
from hornet.training.statistics import RunningStatistics, require_same_buffers
from hornet.training.step_clock import StepClock

FILE = "state.pt"


class AccelerateEngine:
    """A model, its optimizer and the ranks, as hornet.training.loop.Engine describes."""

    def __init__(
        self,
        model: nn.Module,
        *,
        precision: Literal["bf16", "fp32"],
        optimizer: OptimizerConfig,
        compute_loss: ComputeLoss,
        derive_step_seed: Callable[[int, int], int],
        device: torch.device,
        is_main: bool,
        clipping: Clipping = "standard",
    ) -> None:
        # Gradients of depthwise kernels have other strides than DDP's buckets; it copies them, and says so.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        # Its new name is one that accelerate does not pass on.
        warnings.filterwarnings("ignore", category=FutureWarning, message="`broadcast_buffers` is deprecated")
        self._is_main = is_main
        self._device = device
        self._clip_grad_norm = optimizer.clip_grad_norm
        self._clipping = clipping
        self._compute_loss = compute_loss
        self._derive_step_seed = derive_step_seed
        self._accelerator = Accelerator(
            mixed_precision="bf16" if precision == "bf16" else "no",
            # Else `accelerate config` could divide the loss once more, by its own number.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            cpu=device.type == "cpu",
            step_scheduler_with_optimizer=False,
            # Else rank 0's running statistics would replace the others' before every forward pass.
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
        if self._accelerator.distributed_type not in (
            DistributedType.NO,
            DistributedType.MULTI_CPU,
            DistributedType.MULTI_GPU,
        ):
            raise UserError(
                f"accelerate was launched with {self._accelerator.distributed_type}; finetuning is data parallel: "
                "launch it with --multi_gpu, or with a config that has distributed_type MULTI_GPU or NO"
            )
        self.clock = StepClock(device)
        self._module = model
        self._statistics = RunningStatistics(model)
        self._optimizer = build_optimizer(model, optimizer)
        measured = model.named_parameters() if is_main else ()  # every rank steps all there is
        self.norms = NormWatch(self._optimizer, [Slice(name, 0, p.numel(), p, 0) for name, p in measured])
        if optimizer.ema_decay is not None:
            attach_ema(self._optimizer, decay=optimizer.ema_decay)
        self._model = self._accelerator.prepare(
            model
        )  # the optimizer stays ours: in bf16 and fp32 there is nothing to scale

    def run_step(self, batches: Sequence[Batch], *, step: int, lr: float, accept: Accept) -> StepResult:
        """See Engine."""
        self._model.train()
        set_lr(self._optimizer.param_groups, lr)
        earlier = self._statistics.copy()
        losses = []
        norm = math.nan
        for micro_step, batch in enumerate(batches):
            # Gradients are reduced over ranks only where they are to be clipped, which is at the end at least.
            is_reduced = is_clipped_after(micro_step, num_micro_steps=len(batches), clipping=self._clipping)
            with nullcontext() if is_reduced else self._accelerator.no_sync(self._model):
                with self.clock.measure("forward"):
                    loss = self._compute_loss(self._model, batch, self._derive_step_seed(step, micro_step))
                with self.clock.measure("backward"), self._statistics.held():
                    self._accelerator.backward(loss / len(batches))
            losses.append(loss.detach())
            if is_reduced:
                with self.clock.measure("optimizer"):
                    norm = self._clip()
        loss = torch.stack(losses).mean()
        was_applied = accept(loss, norm) and math.isfinite(norm)
        with self.clock.measure("optimizer"):
            if was_applied:
                self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            self._statistics.end_step(was_applied=was_applied, earlier=earlier)
        return StepResult(loss=loss, grad_norm=norm, was_applied=was_applied)

    def _clip(self) -> float:
        """Clip what has accumulated, the same on every rank; return its norm before."""
        return float(self._accelerator.clip_grad_norm_(self._model.parameters(), self._clip_grad_norm or math.inf))

    def save(self, folder: Path, writer: Writer) -> None:
        """See Engine. Rank 0 holds all there is to save."""
        if self._is_main:
            writer.take(folder / FILE, {"model": self._module.state_dict(), "optimizer": self._optimizer.state_dict()})

    def load(self, folder: Path) -> None:
        """See Engine."""
        with errors_shared():
            state = read_state(folder)
            parameters = dict(self._module.named_parameters(remove_duplicate=False))
            saved, saved_groups = state["model"], state["optimizer"]["param_groups"]
            require_same_parameters(
                self._optimizer.param_groups,
                {name: tuple(parameter.shape) for name, parameter in self._module.named_parameters()},
                saved_groups=saved_groups,
                saved_shapes={name: tuple(saved[name].shape) for group in saved_groups for name in group["names"]},
                folder=folder,
            )
            buffers = {name: tensor for name, tensor in saved.items() if name not in parameters}
            require_same_buffers(self._module, buffers, folder=folder)
            self._module.load_state_dict(saved)
            self._optimizer.load_state_dict(state["optimizer"])

    @contextmanager
    def evaluation_model(self, weights: Weights) -> Iterator[nn.Module]:
        """See Engine."""
        if weights == "ema":
            swap_with_ema(self._optimizer, self._module.parameters())
        self._module.eval()
        try:
            with torch.no_grad(), self._accelerator.autocast():
                yield self._module
        finally:
            self._module.train()
            if weights == "ema":
                swap_with_ema(self._optimizer, self._module.parameters())

    def read_parameters(self, names: Sequence[str]) -> dict[str, Tensor]:
        """See Engine."""
        tensors = dict(self._module.named_parameters()) | dict(self._module.named_buffers())
        return {name: tensors[name].detach().cpu().clone() for name in names}


def read_state(folder: Path) -> dict[str, Any]:
    """Read the engine's file: {"model", "optimizer"}, tensors and plain values only."""
    state: dict[str, Any] = load_pickled(folder / FILE, classes={}, mmap=False)
    return state


def read_ema(folder: Path) -> dict[str, Tensor]:
    """Return the averaged weights of a checkpoint by parameter name; empty if the run kept none."""
    state = read_state(folder)
    averages = read_ema_by_name(state["optimizer"])
    return state["model"] | averages if averages else {}

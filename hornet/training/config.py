"""Settings of training: how long, how fast, what is kept, what is refused, who is told."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from hornet.config import Settings, resumable

Weights = Literal["raw", "ema"]
Clipping = Literal["standard", "paper", "every_micro_step"]
"""standard: once a step; paper: what has accumulated is clipped after every micro batch."""
Shape = Literal["cosine", "wsd"]
Cooldown = Literal["1-sqrt", "linear"]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Settings):
    """AdamW and what is done to gradients and weights around it."""

    weight_decay: float = 0.05
    """Decoupled weight decay; biases and 1-D parameters are never decayed, the GF filters are."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the two moments, each from 0 to 1, 1 excluded."""
    epsilon: float = 1e-8
    """Added to the root of the second moment, above 0."""
    clip_grad_norm: float | None = None
    """Largest norm of the whole gradient, applied once a step; null for no clipping."""
    layer_decay: float | None = None
    """Factor on the learning rate per layer group counted from the head (finetuning); null for the same everywhere."""
    ema_decay: float | None = None
    """Decay of the exponential moving average of the weights, per step; null for none."""

    def _find_problems(self) -> Iterator[str]:
        if self.weight_decay < 0:
            yield f"weight_decay: must not be negative, not {self.weight_decay}"
        if any(not 0 <= beta < 1 for beta in self.betas):
            yield f"betas: must be two rates from 0 to 1 (1 excluded), not {list(self.betas)}"
        if not self.epsilon > 0:
            yield f"epsilon: must be above 0, not {self.epsilon}"
        if self.clip_grad_norm is not None and not self.clip_grad_norm > 0:
            yield f"clip_grad_norm: must be above 0, or null for no clipping, not {self.clip_grad_norm}"
        for name in ("layer_decay", "ema_decay"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                yield f"{name}: must lie between 0 and 1, or be null, not {value}"


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig(Settings):
    """How long, and how the learning rate goes."""

    num_epochs: float
    """Passes over the training split."""
    peak_lr: float
    """Learning rate at the end of the warm-up, for the whole global batch (nothing is scaled by batch size)."""
    warmup_epochs: float = 0.0
    """Length of the linear rise from 0, in epochs."""
    min_lr: float = 1e-6
    """Learning rate at the end of the cosine, or of the cooldown."""
    shape: Shape = "cosine"
    """After the warm-up: half a cosine over the whole run, or wsd (warm-up, stable, decay): the peak until a cooldown,
    so that runs of several lengths share their beginning (run.branch_from)."""
    cooldown_share: float = 0.2
    """Under wsd, the share of the run's steps that are its cooldown."""
    cooldown: Cooldown = "1-sqrt"
    """Under wsd, the cooldown's form in its progress x: 1 - sqrt(x), or 1 - x."""

    def _find_problems(self) -> Iterator[str]:
        if not self.num_epochs > 0:
            yield f"num_epochs: must be above 0, not {self.num_epochs}"
        elif not 0 <= self.warmup_epochs <= self.num_epochs:
            yield f"warmup_epochs: must lie in 0..num_epochs ({self.num_epochs}), not {self.warmup_epochs}"
        elif self.shape == "wsd" and not 0 < self.cooldown_share <= 1:
            yield f"cooldown_share: must be over 0 and at most 1, not {self.cooldown_share}"
        elif self.shape == "wsd" and self.warmup_epochs > (stable := (1 - self.cooldown_share) * self.num_epochs):
            yield f"warmup_epochs: must end before the cooldown, after {stable:g} epochs, not {self.warmup_epochs}"
        if self.shape == "cosine" and (self.cooldown_share, self.cooldown) != (0.2, "1-sqrt"):
            yield "cooldown: a cosine has none; set shape=wsd, or leave cooldown and cooldown_share out"
        if not 0 <= self.peak_lr < math.inf:
            yield f"peak_lr: must be 0 or more, and finite, not {self.peak_lr}"
        elif not 0 <= self.min_lr <= self.peak_lr:
            yield f"min_lr: must lie in 0..peak_lr ({self.peak_lr}), not {self.min_lr}"


@dataclass(frozen=True, kw_only=True)
class StepScheduleConfig(Settings):
    """How long, in steps, and the learning rate: a linear warm-up on a power of what is left, or on a staircase."""

    num_steps: int
    """Optimizer steps."""
    peak_lr: float
    """Learning rate that the curve starts from, for the whole global batch."""
    warmup_steps: int = 0
    """Steps over which a factor on the curve rises to 1."""
    warmup_factor: float = 1e-6
    """That factor in the first step."""
    power: float = 1.0
    """Exponent; 1 is a straight line."""
    min_lr: float = 0.0
    """Learning rate that the curve ends at."""
    drop_steps: tuple[int, ...] = ()
    """Instead of the curve: steps from which on the learning rate is a tenth of what it was; empty for the curve."""

    def _find_problems(self) -> Iterator[str]:
        if self.num_steps < 1:
            yield f"num_steps: must be at least 1, not {self.num_steps}"
        elif not 0 <= self.warmup_steps <= self.num_steps:
            yield f"warmup_steps: must lie in 0..num_steps ({self.num_steps}), not {self.warmup_steps}"
        if not 0 <= self.warmup_factor <= 1:
            yield f"warmup_factor: must lie in 0..1, not {self.warmup_factor}"
        if not 0 <= self.peak_lr < math.inf:
            yield f"peak_lr: must be 0 or more, and finite, not {self.peak_lr}"
        elif not 0 <= self.min_lr <= self.peak_lr:
            yield f"min_lr: must lie in 0..peak_lr ({self.peak_lr}), not {self.min_lr}"
        if not self.power > 0:
            yield f"power: must be above 0, not {self.power}"
        steps = self.drop_steps
        if any(not 0 < step < self.num_steps for step in steps) or list(steps) != sorted(set(steps)):
            yield f"drop_steps: must be rising steps between 0 and num_steps ({self.num_steps}), not {list(steps)}"
        if steps and (self.power, self.min_lr) != (1.0, 0.0):
            yield "drop_steps: a staircase has no power and no min_lr; leave them out"


@dataclass(frozen=True, kw_only=True)
class CadenceConfig(Settings):
    """How often the run speaks, saves and is measured; none of it changes what is learned."""

    log_every_steps: int = resumable(10)
    """Steps between lines of metrics.jsonl."""
    save_every_steps: int = resumable(1000)
    """Steps between checkpoints; the last step is always saved."""
    evaluate_every_steps: int | None = resumable(None)
    """Steps between evaluations; null evaluates only at the end."""
    norms_every_steps: int | None = resumable(100)
    """Steps between norms of gradient and weights by part of the network; null for none."""
    images_every_steps: int | None = resumable(None)
    """Steps between images in `images/` and TensorBoard (augmented images, GF filters); null renders at the start and
    the end."""

    def _find_problems(self) -> Iterator[str]:
        for name in ("log_every_steps", "save_every_steps"):
            if getattr(self, name) < 1:
                yield f"{name}: must be at least 1, not {getattr(self, name)}"
        for name in ("evaluate_every_steps", "norms_every_steps", "images_every_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                yield f"{name}: must be at least 1, or null, not {value}"


@dataclass(frozen=True, kw_only=True)
class RetentionConfig(Settings):
    """Which checkpoints stay on disk, and how they get there; none of it changes what is learned."""

    newest: int = resumable(3)
    """How many of the newest checkpoints are kept."""
    every_steps: int | None = resumable(None)
    """Checkpoints at multiples of this are kept for good (for rolling back, or to look at later); null for none."""
    best: bool = resumable(False)
    """Keep the checkpoint with the best top-1 (mIoU, mask AP) of the run's evaluations too; evaluated steps are saved
    for it."""
    asynchronous: bool = resumable(True)
    """Write beside the training, from a copy in host memory; false holds the run up until all is on disk."""

    def _find_problems(self) -> Iterator[str]:
        if self.newest < 1:
            yield f"newest: must be at least 1, not {self.newest}"
        if self.every_steps is not None and self.every_steps < 1:
            yield f"every_steps: must be at least 1, or null, not {self.every_steps}"


def find_best_problems(checkpoints: RetentionConfig, cadence: CadenceConfig, *, has_set: bool) -> Iterator[str]:
    """Yield a sentence if the best checkpoint is to be kept and is never evaluated, or not saved."""
    every = cadence.evaluate_every_steps or cadence.save_every_steps
    if checkpoints.best and (not has_set or every % cadence.save_every_steps):
        yield (
            "checkpoints.best: needs an evaluation set, and a cadence.evaluate_every_steps that is a multiple of "
            f"cadence.save_every_steps ({cadence.save_every_steps}): only saved weights can be kept"
        )


@dataclass(frozen=True, kw_only=True)
class GuardConfig(Settings):
    """Steps that are dropped, batches that are left out, and when a run goes back by itself."""

    spike_sigmas: float | None = 6.0
    """A loss or gradient norm above mean + this many sigmas of the last steps is dropped; null drops only what is not
    finite."""
    window_steps: int = 128
    """How many of the last steps, dropped ones not counted, give mean and sigma; nothing is a spike before half."""
    max_norm_spikes_in_a_row: int | None = 4
    """Behind so many dropped steps in a row a spike of the gradient norm alone is no reason any more: what stays over
    several batches is the weights' own, and dropping cannot end it. null: it always is one."""
    max_dropped_in_a_row: int = resumable(20)
    """So many dropped steps in a row end the run, or take it back."""
    skip_batches: tuple[tuple[int, int], ...] = resumable(())
    """Global batches to leave out: pairs [first, stop), 0-based; the run goes on from a checkpoint before them."""
    max_rollbacks: int = resumable(0)
    """How often the run may go back by itself, over all its attempts; 0 ends it instead."""
    rollback_steps: int = resumable(100)
    """It goes back to the newest checkpoint at least this many steps before the first dropped one."""
    num_batches_after_spike: int = resumable(100)
    """It then leaves out all batches from that checkpoint to the last dropped step, and this many behind."""

    def _find_problems(self) -> Iterator[str]:
        if self.spike_sigmas is not None and not self.spike_sigmas > 0:
            yield f"spike_sigmas: must be above 0, or null, not {self.spike_sigmas}"
        least = {"window_steps": 2, "max_dropped_in_a_row": 1}
        for name in (*least, "max_rollbacks", "rollback_steps", "num_batches_after_spike"):
            if getattr(self, name) < least.get(name, 0):
                yield f"{name}: must be at least {least.get(name, 0)}, not {getattr(self, name)}"
        if self.max_norm_spikes_in_a_row is not None and self.max_norm_spikes_in_a_row < 1:
            yield f"max_norm_spikes_in_a_row: must be at least 1, or null, not {self.max_norm_spikes_in_a_row}"
        for first, stop in self.skip_batches:
            if not 0 <= first < stop:
                yield f"skip_batches: a pair is [first, stop) with 0 <= first < stop, not {[first, stop]}"


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Who is told the numbers and images that a run writes down; none of it changes what is learned."""

    tensorboard: bool = resumable(True)
    """Whether event files are written to runs/NAME/tensorboard."""
    wandb_project: str | None = resumable(None)
    """Project of Weights & Biases to log to; null for none. Needs the package wandb, and a login of its own, or
    WANDB_MODE=offline."""


@dataclass(frozen=True, kw_only=True)
class ProfileConfig(Settings):
    """Which steps are profiled on rank 0; they are slower, and learn the same."""

    first_step: int | None = resumable(None)
    """The first one, counted from 1; null for none. Leave the first few out: they compile and warm up."""
    num_steps: int = resumable(3)
    """How many; a trace takes some MB a step."""

    def _find_problems(self) -> Iterator[str]:
        if self.first_step is not None and self.first_step < 1:
            yield f"first_step: counts from 1; must be at least 1, or null, not {self.first_step}"
        if self.num_steps < 1:
            yield f"num_steps: must be at least 1, not {self.num_steps}"

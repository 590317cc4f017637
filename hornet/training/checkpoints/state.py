"""What a checkpoint keeps of a run beside the engine's files: counts, and what the guard remembers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the loop counts its steps here
    from hornet.training.loop import StepMessage, StepResult


@dataclass(kw_only=True)
class RunState:
    """What a run is besides its weights and optimizer. Everything else follows from the step.

    Written where a run starts (resume.py, load_checkpoint) and by the loop, through `count`.
    """

    step: int = 0
    """Optimizer steps done."""
    num_bad_samples: int = 0
    """Samples replaced so far, over all ranks."""
    num_skipped_steps: int = 0
    """Optimizer steps that were dropped, over all attempts."""
    num_dropped_in_a_row: int = 0
    """Of them, those since the last step that was not."""
    recent_losses: list[float] = field(default_factory=list)
    """Mean losses over all ranks of the last steps that were not dropped: what the guard compares with."""
    recent_norms: list[float] = field(default_factory=list)
    """Gradient norms of the same steps, before clipping."""
    skipped_batches: list[list[int]] = field(default_factory=list)
    """Windows [first, stop) of data steps that are left out (hornet/training/data_steps.py)."""

    def count(self, message: StepMessage, result: StepResult, *, window_steps: int) -> None:
        """Count a step; one that was not dropped is remembered, as one of the last `window_steps`."""
        self.step += 1
        self.num_bad_samples += message.num_bad_samples
        if not result.was_applied:
            self.num_skipped_steps += 1
            self.num_dropped_in_a_row += 1
            return
        self.num_dropped_in_a_row = 0
        for recent, value in ((self.recent_losses, message.mean_loss), (self.recent_norms, result.grad_norm)):
            recent.append(value)
            del recent[:-window_steps]

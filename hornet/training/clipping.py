"""After which micro steps of a step the gradient is clipped."""

from __future__ import annotations

from hornet.errors import UserError
from hornet.training.config import Clipping

NUM_PUBLISHED_MICRO_STEPS = 2
"""Of the original's commands for S, B and L, whose engine.py clips in fp32 after every backward pass."""


def is_clipped_after(micro_step: int, *, num_micro_steps: int, clipping: Clipping) -> bool:
    """Whether what has accumulated is clipped after the 0-based `micro_step` of a step.

    paper clips where the original's commands do, after each half of the step's images, however many micro steps make a
    half here: a sum of gradients does not depend on how it was taken apart, clipping between two parts does.
    """
    if clipping == "every_micro_step" or micro_step == num_micro_steps - 1:
        return True
    return clipping == "paper" and (micro_step + 1) * NUM_PUBLISHED_MICRO_STEPS % num_micro_steps == 0


def require_halves(clipping: Clipping, *, num_micro_steps: int) -> None:
    """Raise UserError if clipping as the paper would need half a micro step."""
    if clipping == "paper" and num_micro_steps % NUM_PUBLISHED_MICRO_STEPS:
        raise UserError(
            "recipe.clipping: paper clips after each half of a step, as the original's two micro steps; here the step "
            f"has {num_micro_steps}, which cannot be halved: choose a micro_batch_size that makes them even, or "
            "recipe.clipping=standard"
        )

"""Norms of gradient and weights, and the size of layer scales, by part of the network: stem, stages, head.

Measured where torch's optimizer takes a step, on whatever this rank holds there: slices of flat tensors under ZeRO,
whole parameters without it. Nothing is gathered but a few sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hornet.training.process_group import sum_over_ranks

LAYER_SCALES = ("gamma1", "gamma2")
"""Last words of the names of a block's layer scales."""


@dataclass(frozen=True)
class Slice:
    """A stretch of one parameter that this rank's optimizer steps."""

    name: str
    """Name of the parameter that the slice is of."""
    start: int
    """First element in the flat parameter."""
    num_elements: int
    """Length, in elements of the flat parameter."""
    owner: Tensor
    """What torch's optimizer steps: a flat fp32 tensor of many slices, or the parameter itself."""
    offset: int
    """First element in the flat owner."""


class NormWatch:
    """Measures the steps that it is armed for; the others cost nothing."""

    def __init__(self, optimizer: torch.optim.Optimizer, slices: Sequence[Slice]) -> None:
        """`slices` of all ranks together hold every element once."""
        self._slices: dict[Tensor, list[Slice]] = {}
        for slice_ in slices:
            self._slices.setdefault(slice_.owner, []).append(slice_)
        self._is_armed = False
        self._taken: list[tuple[str, Tensor]] = []
        optimizer.register_step_pre_hook(self._take)

    def arm(self, is_wanted: bool) -> None:
        """Say whether the next step is to be measured, and forget what was not read."""
        self._is_armed, self._taken = is_wanted, []

    def read(self, names: Sequence[str], *, grad_norm: float) -> dict[str, dict[str, float | None]]:
        """Return what the step since `arm` showed, by part of the network. Collective; only after an applied step.

        `names` are all parameters of the network. The parts' gradient norms, clipped when they were measured, are given
        as parts of the whole gradient's `grad_norm` before clipping. The weights are those before the step.
        """
        parts = list(dict.fromkeys(part_of(name) for name in names))
        sums = torch.zeros(len(parts), 4, dtype=torch.float64)
        for name, measured in self._taken:
            sums[parts.index(part_of(name))] += measured.double().cpu()
        sums = sum_over_ranks(sums)
        clipped = math.sqrt(sums[:, 0].sum())
        scale = grad_norm / clipped if clipped > 0 else 1.0
        return {
            part: {
                "grad_norm": scale * math.sqrt(gradient),
                "weight_norm": math.sqrt(weights),
                "layer_scale": magnitudes / count if count else None,
            }
            for part, (gradient, weights, magnitudes, count) in zip(parts, sums.tolist(), strict=True)
        }

    @torch.no_grad()
    def _take(self, optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        if not self._is_armed:
            return
        for owner in (owner for group in optimizer.param_groups for owner in group["params"]):
            if owner.grad is not None:  # else this call is for another part of the parameters
                self._taken += [(slice_.name, _measure(slice_)) for slice_ in self._slices.get(owner, ())]


def part_of(name: str) -> str:
    """Return the part of the network that a parameter belongs to: "stages.2", "downsample_layers.0", "head"."""
    first, *rest = name.split(".")
    return f"{first}.{rest[0]}" if rest and rest[0].isdigit() else first


def _measure(slice_: Slice) -> Tensor:
    """Return the slice's sums: gradient squared, weights squared; of a layer scale magnitudes and their number."""
    owner, gradient = slice_.owner, slice_.owner.grad
    assert gradient is not None
    weights = owner.detach()
    if slice_.num_elements != owner.numel():
        weights, gradient = (t.view(-1).narrow(0, slice_.offset, slice_.num_elements) for t in (weights, gradient))
    zero = weights.new_zeros(())
    is_scale = slice_.name.rpartition(".")[2] in LAYER_SCALES
    magnitudes = weights.abs().sum() if is_scale else zero
    return torch.stack(
        [
            torch.linalg.vector_norm(gradient.float()).square(),
            torch.linalg.vector_norm(weights.float()).square(),
            magnitudes,
            zero + slice_.num_elements * is_scale,
        ]
    )

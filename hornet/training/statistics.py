"""Running statistics, as BatchNorm keeps them in buffers: one truth on all ranks, and no trace of a dropped step.

What a rank's own images made of them in a step is averaged over ranks after it, as timm's `distribute_bn=reduce` does
at every epoch's end. Networks without persistent buffers (HorNet, ConvNeXt, Swin, ViT) pay nothing and send nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hornet.errors import UserError
from hornet.training.process_group import average_over_ranks


class RunningStatistics:
    """The persistent buffers of a network that is being trained."""

    def __init__(self, model: nn.Module) -> None:
        # By module and name: a network may put another tensor in a buffer's place.
        self._places = [
            (module, name)
            for module in model.modules()
            for name, buffer in module.named_buffers(recurse=False)
            if name not in module._non_persistent_buffers_set
        ]

    def copy(self) -> list[Tensor]:
        """Return the buffers as they are now."""
        return [buffer.detach().clone() for buffer in self._list()]

    @torch.no_grad()
    def restore(self, earlier: Sequence[Tensor]) -> None:
        """Make the buffers again what `copy` returned."""
        for buffer, values in zip(self._list(), earlier, strict=True):
            buffer.copy_(values)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Undo what the block does to the buffers.

        Meant for a backward pass: where it computes activations again, BatchNorm would count the same images twice.
        """
        now = self.copy()
        yield
        self.restore(now)

    def end_step(self, *, was_applied: bool, earlier: Sequence[Tensor]) -> None:
        """Average over ranks what an applied step has made of the buffers; undo what a dropped one has. Collective."""
        if was_applied:
            self._average()
        else:
            self.restore(earlier)

    @torch.no_grad()
    def _average(self) -> None:
        """Average in one flat sum. Buffers of integers count the same steps on all ranks."""
        buffers = [buffer for buffer in self._list() if buffer.is_floating_point()]
        if not buffers or dist.get_world_size() == 1:
            return
        # Doubles: of fp32 numbers that are equal on all ranks the mean is exact, so constants stay to the bit.
        means = [buffer.double() for buffer in buffers]
        average_over_ranks(means)
        for buffer, mean in zip(buffers, means, strict=True):
            buffer.copy_(mean)

    def _list(self) -> list[Tensor]:
        return [getattr(module, name) for module, name in self._places]


def require_statistics(model: nn.Module, micro_batch_size: int) -> None:
    """Raise UserError if the network takes statistics over a micro batch, and that is one image."""
    if micro_batch_size > 1:
        return
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            raise UserError(
                f"micro_batch_size: {type(model).__name__} takes running statistics over each micro batch "
                f"({name or type(module).__name__}), and one image gives none; set it to 2 or more"
            )


def list_persistent(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that belong to the network's state, by every name they have in its state dict."""
    return {
        f"{prefix}.{name}" if prefix else name: buffer
        for prefix, module in model.named_modules(remove_duplicate=False)
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
        if name not in module._non_persistent_buffers_set
    }


def require_same_buffers(model: nn.Module, saved: Mapping[str, Tensor], *, folder: Path) -> None:
    """Raise UserError if a checkpoint's buffers are not those of the network, by name and shape."""
    shapes = {name: tuple(buffer.shape) for name, buffer in list_persistent(model).items()}
    found = {name: tuple(buffer.shape) for name, buffer in saved.items()}
    wrong = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
    if wrong:
        raise UserError(
            f"{folder}: is of another network: {len(wrong)} buffers differ ({', '.join(wrong[:3])}); go on with the "
            "model and the classes it was trained with"
        )

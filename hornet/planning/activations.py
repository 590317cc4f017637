"""What a forward and backward pass keeps in a GPU's memory, by running the real network on fake tensors.

Fake tensors have shapes and storages but no memory, so a laptop runs any size of any network in seconds. Every operator
goes through a meter that adds up the storages as they come and go: its highest value is what
torch.cuda.max_memory_allocated would say beyond weights and gradients. Among what it sees are the copies in bf16 that
autocast makes, the Fourier transforms and what is computed again under activation checkpointing.

The network runs on the CPU's operators, with CUDA's rule of autocast for LayerNorm, which is where the two differ for
HorNet; other networks may differ in more (a softmax outside of attention). Not seen: what kernels take for themselves
while they run, and gaps between blocks; see `memory.py`.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hornet.model.build import build_model
from hornet.model.config import ModelConfig

Precision = Literal["bf16", "fp32"]

PROBED_SIZES = (32, 64)
"""Images of the two passes that the straight line goes through: the peak is one from about 8 images on."""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Bytes of one forward and backward pass, weights and their gradients left out."""

    kept: int
    """Between the two: what autograd saved."""
    peak: int
    """At most at a time."""


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Bytes that a micro batch takes at the peak, as a straight line."""

    fixed: int
    """For any number of images: weights in bf16 and one weight's gradient."""
    per_image: int
    """Bytes that autograd keeps for each image of the micro batch."""

    def count(self, micro_batch_size: int) -> int:
        """Bytes for that many images."""
        return self.fixed + self.per_image * micro_batch_size


def measure_activations(config: ModelConfig, *, num_classes: int, image_size: int, precision: Precision) -> Activations:
    """Return what a micro batch takes, whatever its size; a compiled network is taken as one that is not."""
    model = build_on_meta(config, num_classes=num_classes, image_size=image_size)
    small, large = PROBED_SIZES
    peaks = [measure_pass(model, size=size, image_size=image_size, precision=precision).peak for size in PROBED_SIZES]
    per_image = (peaks[1] - peaks[0]) // (large - small)
    return Activations(fixed=peaks[0] - small * per_image, per_image=per_image)


def build_on_meta(config: ModelConfig, *, num_classes: int, image_size: int) -> nn.Module:
    """Build the run's network without memory for its weights."""
    with torch.device("meta"):
        return build_model(
            dataclasses.replace(config, compile=False), num_classes=num_classes, image_size=image_size, seed=0
        )


def measure_pass(model: nn.Module, *, size: int, image_size: int, precision: Precision) -> Pass:
    """Run a network from the meta device over `size` images; its gradients count as there already."""

    def compute_loss() -> Tensor:
        images = torch.empty(size, 3, image_size, image_size)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits: Tensor = model(images)
        targets = torch.empty(logits.shape)
        loss: Tensor = SoftTargetCrossEntropy()(logits.float(), targets)  # type: ignore[no-untyped-call]
        return loss

    model.train()
    hooks = [module.register_forward_pre_hook(_widen) for module in model.modules() if isinstance(module, nn.LayerNorm)]
    with FakeTensorMode():
        _fake_tensors(model)
        with Meter(besides=model) as meter:
            loss = compute_loss()
            kept = meter.live
            loss.backward()
    for hook in hooks:
        hook.remove()
    return Pass(kept=kept, peak=meter.peak)


class Meter(TorchDispatchMode):
    """Adds up the bytes of all storages that are made while it is on, until they are freed."""

    def __init__(self, *, besides: nn.Module) -> None:
        """Leave out the weights and gradients of `besides`, and views of them."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        tensors = [tensor for parameter in besides.parameters() for tensor in (parameter, parameter.grad)]
        self._known = {tensor.untyped_storage()._cdata for tensor in tensors if tensor is not None}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operator and note its outputs; outputs that are views or in place are known already."""
        outputs = func(*args, **(kwargs or {}))
        for output in tree_leaves(outputs):
            if isinstance(output, Tensor):
                self._note(output.untyped_storage())
        return outputs

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, num_bytes = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.live += num_bytes
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._forget, key, num_bytes)

    def _forget(self, key: int, num_bytes: int) -> None:
        self._known.discard(key)
        self.live -= num_bytes


def _widen(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """LayerNorm is in fp32 under CUDA's autocast; the CPU's leaves it as it comes."""
    return tuple(x.float() for x in inputs) if torch.is_autocast_enabled("cpu") else None


def _fake_tensors(model: nn.Module) -> None:
    """Give every parameter a fake tensor and a gradient of its shape, and every buffer a fake tensor."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))
        for name, parameter in module.named_parameters(recurse=False):
            fake = nn.Parameter(torch.empty(parameter.shape))
            fake.grad = torch.empty(parameter.shape)
            setattr(module, name, fake)

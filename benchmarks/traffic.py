"""The bytes and operations of a step as eager code does it: each operator reads its inputs and writes its outputs.

Counted, not measured: the step runs on tensors without contents, so any model of any size is counted on any machine.
What a kernel reads twice, and the layouts that a library's kernels make for themselves, are not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker

aten = torch.ops.aten


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What one operator of a step does to one image."""

    operator: str
    """aten's name."""
    modules: frozenset[str]
    """Names of the modules it runs in, backward too."""
    is_backward: bool
    dtype: torch.dtype
    """Of what it writes."""
    groups: int
    """Of a convolution; 1 elsewhere."""
    flops: float
    """Of products and convolutions, two a multiply-add."""
    num_bytes: float


class _LayerNormInFloat32(TorchFunctionMode):
    """CUDA's autocast runs LayerNorm in float32, a CPU's does not; in the rest that matters here they agree."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is functional.layer_norm:
            args = (args[0].float(), *args[1:])
        return function(*args, **(kwargs or {}))


class _Counter(TorchDispatchMode):
    def __init__(self, tracker: ModuleTracker, num_images: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tracker, self.num_images = tracker, num_images
        self.found: list[Traffic] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        outputs = [tensor for tensor in _list_tensors(result) if tensor.numel()]
        if outputs and not function.is_view and function.namespace == "aten" and not _is_free(function):
            packet = function._overloadpacket
            self.found.append(
                Traffic(
                    operator=packet.__name__,
                    modules=frozenset(self.tracker.parents),
                    is_backward=self.tracker.is_bw,
                    dtype=outputs[0].dtype,
                    groups=_find_groups(packet, args),
                    flops=_count_flops(packet, args, kwargs or {}, result) / self.num_images,
                    num_bytes=sum(map(_count_bytes, [*_list_tensors((args, kwargs)), *outputs])) / self.num_images,
                )
            )
        return result


def count_traffic(model: nn.Module, *, image_size: tuple[int, int], num_images: int, is_bf16: bool) -> list[Traffic]:
    """Count one training step (forward, cross entropy, backward) of `num_images` images, without the optimizer.

    `model` may be on the meta device, and is without contents afterwards. `is_bf16` is autocast as CUDA does it.
    Everything is given for one image, so what is done once a step (casts of weights) counts 1 / `num_images`.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        model = model.train()._apply(lambda parameter: torch.empty(parameter.shape, dtype=parameter.dtype))
        images, labels = torch.empty(num_images, 3, *image_size), torch.zeros(num_images, dtype=torch.long)
        tracker = ModuleTracker()
        with tracker, _Counter(tracker, num_images) as counter:
            with _LayerNormInFloat32(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16):
                logits = model(images)
            functional.cross_entropy(logits.float(), labels).backward()
    found: list[Traffic] = counter.found
    return found


def _is_free(function: Any) -> bool:
    # Views that torch does not call views, and memory that is only reserved.
    return function._overloadpacket in (aten._unsafe_view, aten.empty, aten.empty_strided, aten.detach, aten.new_empty)


def _find_groups(packet: Any, args: Any) -> int:
    places = {aten.convolution: 8, aten.convolution_backward: 9}
    return int(args[places[packet]]) if packet in places else 1


def _count_flops(packet: Any, args: Any, kwargs: dict[str, Any], result: Any) -> int:
    if packet is aten.convolution_backward:  # torch's own count takes no notice of groups
        gradient, _, weight = args[:3]
        is_wanted = args[-1]
        return int(2 * gradient.numel() * weight[0].numel() * (is_wanted[0] + is_wanted[1]))
    count = flop_registry.get(packet)
    return int(count(*args, **kwargs, out_val=result)) if count else 0


def _list_tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _list_tensors(part)
    elif isinstance(value, dict):
        yield from _list_tensors(tuple(value.values()))


def _count_bytes(tensor: Tensor) -> int:
    """Of the elements that lie in memory: an expanded axis is one element long there."""
    number = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        number *= size if stride else 1
    return number * tensor.element_size()

"""What a network costs: multiply-adds of one forward pass of one image, and what a training step is measured by.

A HorNet's are computed from the shapes of its parameters, so they need neither a GPU nor a run, and a model on the meta
device does. Two numbers, because the published one is a convention:

* executed: the multiply-adds of the matrix products and convolutions that our forward pass runs, the Fourier
  transforms as the matrix products they are here (fourier.py). Elementwise work (gates, activations, norms, the product
  of spectrum and filter) is not counted. For utilisation of a device: a training step is three times this, two
  floating point operations each.
* published: the convention behind the GFLOPs of the paper's tables: multiply-adds of convolutions and linear layers; a
  transform of C channels over N = H W positions as N C ceil(log2 N); and 5 an element for the LayerNorms that the
  original runs through F.layer_norm, which are norm2 of each block and the last (its counter, fvcore, sees no others).
  The original's FFT handler reads (B, C, H, W) as (B, H, W, C), which makes its own GF numbers up to 0.1 % larger.

Bilinear resampling of filters for inputs of another size is not counted.

Any other network is run once on tensors without memory under torch's counter of matrix products and convolutions,
attention's products included: the same as a HorNet's `executed`, and what the tables of other papers say.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hornet.errors import UserError
from hornet.model.convolution import PointwiseConv
from hornet.model.global_filter import GlobalLocalFilter
from hornet.model.hornet import HorNet, ImageSize, compute_grid
from hornet.model.sizes import MIN_IMAGE_SIZE

LAYER_NORM_COST = 5


class MultiplyAdds(NamedTuple):
    """Those of one kind of layer."""

    published: int
    executed: int


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Multiply-adds of a forward pass of one image; the totals are sums over the kinds."""

    by_kind: Mapping[str, MultiplyAdds]
    """patch (stem, downsampling), pointwise, depthwise, filter, norm, head; of another network's all together "all"."""

    @property
    def published(self) -> int:
        """Total in the convention of the paper's tables."""
        return sum(part.published for part in self.by_kind.values())

    @property
    def executed(self) -> int:
        """Total of the matrix products and convolutions that run."""
        return sum(part.executed for part in self.by_kind.values())


def count_parameters(model: nn.Module) -> int:
    """Trainable and frozen parameters; buffers are not counted."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_hornet(model: HorNet, image_size: ImageSize) -> Cost:
    """Count what HorNet.count_multiply_adds returns."""
    found: dict[str, MultiplyAdds] = {}

    def add(kind: str, published: int, executed: int) -> None:
        before = found.get(kind, MultiplyAdds(0, 0))
        found[kind] = MultiplyAdds(before.published + published, before.executed + executed)

    for index, (downsampling, stage) in enumerate(zip(model.downsample_layers, model.stages, strict=True)):
        grid = compute_grid(image_size, index, stem_stride=model.stem_stride)
        if min(grid) < 1:
            raise ValueError(f"image_size is {image_size}, but the model needs {MIN_IMAGE_SIZE} pixels a side or more.")
        for name, module in [*downsampling.named_modules(), *stage.named_modules()]:
            kind, published, executed = _count_module(name, module, grid)
            if kind:
                add(kind, published, executed)
    if isinstance(model.norm, nn.LayerNorm):
        add("norm", LAYER_NORM_COST * model.num_features, 0)
    if isinstance(model.head, nn.Linear):
        head = model.head.weight.numel()
        add("head", head, head)
    return Cost(by_kind=found)


def count_forward(model: nn.Module, image_size: int) -> tuple[int, tuple[int, ...] | None]:
    """Return multiply-adds of one image's forward pass, as they run, and the shape of what two images give.

    The network runs in training mode, on tensors without memory: its weights and buffers stay as they are. The shape
    is None where it gives no tensor. Raises what the network raises for images that it cannot take.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.train()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as fake:
            tensors: dict[str, Tensor] = {
                name: fake.from_tensor(tensor.detach())
                for name, tensor in [*model.named_parameters(), *model.named_buffers()]
            }
            images = torch.empty(2, 3, image_size, image_size, device=device)
            # The counter knows no fused attention of CPUs; by itself it is two matrix products.
            with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
                output = functional_call(model, tensors, (images,))
    finally:
        model.train(was_training)
    return counter.get_total_flops() // 4, tuple(output.shape) if isinstance(output, Tensor) else None


def require_logits(model: nn.Module, *, num_classes: int, image_size: int, name: str, key: str) -> None:
    """Raise UserError if a network cannot take images of that size, which `key` asks for, or gives no logits."""
    shape: tuple[int, ...] | None = (2, num_classes)
    try:
        count = getattr(model, "count_multiply_adds", None)
        if count is not None:
            count(image_size)
        else:
            _, shape = count_forward(model, image_size)
    except Exception as error:
        is_ours_to_say = isinstance(error, AssertionError | ValueError | RuntimeError | IndexError)
        if not is_ours_to_say and not type(model).__module__.startswith("timm."):
            raise  # a fault of somebody's own network, who wants to see where
        raise UserError(
            f"{key}: {name} cannot take images of {image_size} pixels: {str(error).strip() or type(error).__name__}"
        ) from error
    if shape != (2, num_classes):
        given = "no tensor" if shape is None else f"a tensor of shape {shape}"
        raise UserError(
            f"model.name: {name} gives {given} for two images, not logits of shape (2, {num_classes}); choose a "
            "network that classifies"
        )


def count_multiply_adds(model: nn.Module, image_size: ImageSize) -> Cost:
    """Cost of a forward pass of one image of `image_size` pixels (a number; for a HorNet also (height, width))."""
    count = getattr(model, "count_multiply_adds", None)
    if count is not None:
        cost: Cost = count(image_size)
        return cost
    assert isinstance(image_size, int)
    executed, _ = count_forward(model, image_size)
    return Cost(by_kind={"all": MultiplyAdds(executed, executed)})


def count_training_flops(model: nn.Module, image_size: ImageSize) -> int:
    """Floating point operations of one image's forward and backward pass: what a device's utilisation is measured by.

    Two a multiply-add; the backward pass computes two products for each of the forward's. What activation checkpointing
    computes again does not count.
    """
    return 3 * 2 * count_multiply_adds(model, image_size).executed


def _count_module(name: str, module: nn.Module, grid: tuple[int, int]) -> tuple[str, int, int]:
    """Kind, published and executed multiply-adds of one module's own work at a grid of (h, w) outputs; "" for none."""
    positions = prod(grid)
    if isinstance(module, GlobalLocalFilter):
        channels = module.complex_weight.shape[0]
        published = 2 * channels * positions * _ceil_log2(positions)
        return "filter", published, channels * _count_transforms(grid)
    if isinstance(module, nn.LayerNorm):
        is_counted = name.endswith("norm2")
        return "norm", LAYER_NORM_COST * positions * module.weight.numel() * is_counted, 0
    if isinstance(module, nn.Conv2d | nn.Linear):
        # Each weight is used once for each output position.
        multiply_adds = positions * module.weight.numel()
        return _name_kind(module), multiply_adds, multiply_adds
    return "", 0, 0


def _name_kind(module: nn.Conv2d | nn.Linear) -> str:
    if isinstance(module, PointwiseConv | nn.Linear):
        return "pointwise"
    return "patch" if module.groups == 1 else "depthwise"


def _count_transforms(grid: tuple[int, int]) -> int:
    """Multiply-adds of one channel's transform and inverse: rows (W by 2 K), columns (2 H by 2 H), and back."""
    height, width = grid
    half = width // 2 + 1
    rows = height * width * 2 * half
    columns = (2 * height) ** 2 * half
    return 2 * (rows + columns)


def _ceil_log2(number: int) -> int:
    return (number - 1).bit_length()

"""The work that a HorNet's training step cannot do without; the rules are told in benchmarks/roofline.py."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import prod

from torch import nn

from benchmarks.work import Work
from hornet.model.block import Block
from hornet.model.cost import count_parameters
from hornet.model.hornet import HorNet, compute_grid

WIDTH, STREAM_WIDTH = 2, 4
"""Bytes of an activation, and of the sum that runs through the blocks."""

BYTES_A_WEIGHT = 28 + 6 + 4 + 4
"""A step: AdamW reads 4 and writes 3 numbers of 4 bytes; a bf16 copy is made and read twice; a gradient is written."""


def list_necessary_work(model: HorNet, image_size: tuple[int, int], *, num_images: int) -> list[Work]:
    """List the kernels of a training step under the rules above; their forward operations are those of cost.py."""
    work: list[Work] = []
    for index, stage in enumerate(model.stages):
        grid = compute_grid(image_size, index)
        part = f"stage_{index + 1}"
        patch = next(module for module in model.downsample_layers[index].modules() if isinstance(module, nn.Conv2d))
        work += _list_patch_work(part, patch, grid, is_stem=index == 0)
        for block in stage.children():
            assert isinstance(block, Block)
            work += _list_block_work(part, block, grid)
    head = model.num_features * max(1, model.num_classes)
    work.append(Work(part="head", kind="head", is_backward=False, flops=2 * head, num_bytes=0))
    work.append(Work(part="head", kind="head", is_backward=True, flops=4 * head, num_bytes=0))
    weights = BYTES_A_WEIGHT * count_parameters(model) / num_images
    work.append(Work(part="weights", kind="optimizer", is_backward=True, flops=0, num_bytes=weights))
    return work


def _list_block_work(part: str, block: Block, grid: tuple[int, int]) -> Iterator[Work]:
    """Bytes a position, in the order of the forward pass; `stream` is one read or write of the running sum."""
    positions, channels = prod(grid), block.gamma1.numel()
    gates = block.gnconv.gate_channels
    stream, hidden = STREAM_WIDTH * channels, WIDTH * 4 * channels

    def product(inputs: int, outputs: int, *, forward: int, to_input: int, to_weight: int) -> Iterator[Work]:
        for is_backward, num_bytes in ((False, forward), (True, to_input), (True, to_weight)):
            yield Work(
                part=part,
                kind="pointwise",
                is_backward=is_backward,
                flops=2 * positions * inputs * outputs,
                num_bytes=positions * num_bytes,
            )

    both = WIDTH * 2 * channels
    # Backward: gradient of both parts; then, for the norm, its input, and the sum's gradient read and written.
    yield from product(
        channels, 2 * channels, forward=stream + both, to_input=both + 3 * stream, to_weight=both + stream
    )
    yield from _list_spatial_work(part, block.gnconv.dwconv, grid)
    for narrow, wide in pairwise(gates):
        # Reads both factors of the gate before; backward writes the gradients of both.
        factors = WIDTH * 2 * narrow
        there = WIDTH * wide
        yield from product(
            narrow, wide, forward=factors + there, to_input=there + 2 * factors, to_weight=there + factors
        )
    yield from product(
        channels, channels, forward=both + 2 * stream, to_input=stream + 2 * both, to_weight=stream + both
    )
    yield from product(
        channels, 4 * channels, forward=stream + hidden, to_input=hidden + 3 * stream, to_weight=hidden + stream
    )
    yield from product(
        4 * channels, channels, forward=hidden + 2 * stream, to_input=stream + 2 * hidden, to_weight=stream + hidden
    )


def _list_spatial_work(part: str, layer: nn.Module, grid: tuple[int, int]) -> Iterator[Work]:
    """Forward: read, write. Backward, for all gradients at once: read input and gradient, write one."""
    cost = count_spatial_multiply_adds(layer, grid)
    for kind, (channels, multiply_adds) in cost.items():
        num_bytes = prod(grid) * WIDTH * channels
        # A transform has no gradient of its own matrix; its backward pass computes the input's spectrum again.
        factor = 2.0 if kind == "depthwise" else 1.5
        for is_backward in (False, True):
            yield Work(
                part=part,
                kind=kind,
                is_backward=is_backward,
                flops=2 * multiply_adds * (factor if is_backward else 1),
                num_bytes=num_bytes * (3 if is_backward else 2),
                is_vector=kind == "depthwise",
            )


def count_spatial_multiply_adds(layer: nn.Module, grid: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Kind -> channels and multiply-adds of a depthwise convolution, or of the two halves of a global filter."""
    if isinstance(layer, nn.Conv2d):
        return {"depthwise": (layer.out_channels, prod(grid) * layer.weight.numel())}
    local = layer.dw
    assert isinstance(local, nn.Conv2d)
    height, width = grid
    half = width // 2 + 1
    transforms = 2 * (height * width * 2 * half + (2 * height) ** 2 * half)
    channels = local.out_channels
    return {
        "depthwise": (channels, prod(grid) * local.weight.numel()),
        "filter": (channels, channels * transforms),
    }


def _list_patch_work(part: str, layer: nn.Conv2d, grid: tuple[int, int], *, is_stem: bool) -> Iterator[Work]:
    positions, outputs = prod(grid), layer.out_channels
    inputs = layer.weight[0].numel()
    stream = STREAM_WIDTH * outputs
    # The stem's norm follows it and needs the convolution's result again; the others' norms come first.
    before = WIDTH * (inputs + 2 * outputs) if is_stem else STREAM_WIDTH * inputs
    passes = [(False, before + stream), (True, before + stream)]
    if not is_stem:
        passes.append((True, stream + 2 * before))
    for is_backward, num_bytes in passes:
        yield Work(
            part=part,
            kind="patch",
            is_backward=is_backward,
            flops=2 * positions * inputs * outputs,
            num_bytes=positions * num_bytes,
        )

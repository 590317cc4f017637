"""The 7x7 depthwise convolution of a gnConv with bias, scale and first gate in one kernel, channels last.

With y = proj_in(x) of shape (B, H, W, G + S), p = y[..., :G] and q = y[..., G:], the operator returns
    z = scale (conv(q) + bias),   its first G channels multiplied by p,   of shape (B, H, W, S).
Plain operators copy q and p out of y, convolve, scale and multiply, each in a pass over memory, and their backward pass
joins the gradients of p and q in another copy. Here the forward pass reads y and writes z, and the backward pass writes
the gradient of y whole.

Inputs are bfloat16, float16 or float32, sums are float32. A program is one warp that owns a block of channels, so each
load is a row of channels, and what is between load and store stays in its registers: a strip of a row for the output
and the input gradient (14 values give 8), all 49 sums for the weight gradient. Sums of different programs are added up
by torch in a fixed order, so the same input gives the same gradients, to the bit.

Not here: who chooses between this and plain operators (gnconv.py).
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

SIZE = 7
"""The kernels unroll it: nothing else is supported."""

BLOCK_CHANNELS = 64
STRIP = 8
"""Outputs of a program: all of 7, 8 of 14, 28 and 56."""
WEIGHT_BLOCK_CHANNELS = 32
"""For the weight gradient, whose 50 sums a channel would spill from a thread's 255 registers with two channels each."""
WEIGHT_STRIP = 4
"""Positions at a time for the weight gradient."""
ROWS_A_PROGRAM = 16
"""For the weight gradient: more rows mean fewer partial sums to add, and fewer programs."""


@triton.jit
@no_type_check
def _load_strip(
    source, row, column, height, width, channel, is_channel, line_offset,
    stride: tl.constexpr, place_offset: tl.constexpr, count: tl.constexpr,
):  # fmt: skip
    """`count` neighbouring positions in float32, from (row + line_offset, column + place_offset) on; 0 outside.

    Rows are numbered through all images; a row's neighbours are those of its own image.
    """
    line = row % height + line_offset
    is_line = (line >= 0) & (line < height)
    # One address; the others lie a constant distance from it.
    start = source + ((row + line_offset).to(tl.int64) * width + column) * stride + channel
    values = ()
    for k in tl.static_range(count):
        place = column + place_offset + k
        is_there = is_channel & is_line & (place >= 0) & (place < width)
        value = tl.load(start + (place_offset + k) * stride, mask=is_there, other=0.0)
        values = values + (value.to(tl.float32),)  # noqa: RUF005 (Triton knows no star in a tuple)
    return values


@triton.jit
@no_type_check
def _multiply(values, factors, is_factor, count: tl.constexpr):
    """Each value times its factor where it has one."""
    products = ()
    for k in tl.static_range(count):
        products = products + (values[k] * tl.where(is_factor, factors[k], 1.0),)  # noqa: RUF005
    return products


@triton.jit
@no_type_check
def _convolve(
    source, factor, weight, bias, out,
    height, width, channels, num_factors, scale,
    source_stride: tl.constexpr, factor_stride: tl.constexpr, weight_stride: tl.constexpr, out_stride: tl.constexpr,
    is_input_gradient: tl.constexpr,
    size: tl.constexpr, strip: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Store factor * scale * (conv(source) + bias); for the input gradient scale * conv(factor * source).

    Strides lead from one position to the next, or from one tap of the (size * size, channels) weight. The factor
    belongs to the first `num_factors` channels; for the others it is 1.
    """
    strips = tl.cdiv(width, strip)
    row = tl.program_id(0) // strips
    column = (tl.program_id(0) % strips) * strip
    channel = tl.program_id(1) * block + tl.arange(0, block)
    is_channel = channel < channels
    is_factor = channel < num_factors
    border: tl.constexpr = size // 2
    window: tl.constexpr = strip + size - 1
    sums = ()
    for _ in tl.static_range(strip):
        sums = sums + (tl.zeros([block], tl.float32),)  # noqa: RUF005
    for i in range(size):
        values = _load_strip(
            source, row, column, height, width, channel, is_channel, i - border, source_stride, -border, window
        )
        if is_input_gradient:
            values = _multiply(
                values,
                _load_strip(
                    factor, row, column, height, width, channel, is_factor, i - border, factor_stride, -border, window
                ),
                is_factor,
                window,
            )
        for j in tl.static_range(size):
            tap = tl.load(weight + (i * size + j) * weight_stride + channel, mask=is_channel, other=0.0)
            new = ()
            for k in tl.static_range(strip):
                new = new + (sums[k] + values[k + j] * tap,)  # noqa: RUF005
            sums = new
    if not is_input_gradient:
        shift = tl.load(bias + channel, mask=is_channel, other=0.0).to(tl.float32)
        new = ()
        for k in tl.static_range(strip):
            new = new + (sums[k] + shift,)  # noqa: RUF005
        factors = _load_strip(factor, row, column, height, width, channel, is_factor, 0, factor_stride, 0, strip)
        sums = _multiply(new, factors, is_factor, strip)
    start = out + (row.to(tl.int64) * width + column) * out_stride + channel
    for k in tl.static_range(strip):
        result = (sums[k] * scale).to(out.dtype.element_ty)
        tl.store(start + k * out_stride, result, mask=is_channel & (column + k < width))


@triton.jit
@no_type_check
def _correlate(
    source, gradient, factor, partial,
    num_rows, height, width, channels, num_factors,
    source_stride: tl.constexpr, gradient_stride: tl.constexpr, factor_stride: tl.constexpr,
    rows: tl.constexpr, size: tl.constexpr, strip: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Store `rows` rows' part of the gradients of weight, and of bias as last tap, in partial[program, tap, channel].

    They still lack the scale.
    """
    channel = tl.program_id(1) * block + tl.arange(0, block)
    is_channel = channel < channels
    is_factor = channel < num_factors
    border: tl.constexpr = size // 2
    taps: tl.constexpr = size * size
    sums = ()
    for _ in tl.static_range(taps + 1):
        sums = sums + (tl.zeros([block], tl.float32),)  # noqa: RUF005
    first = tl.program_id(0) * rows
    for offset in range(min(rows, num_rows - first)):
        row = first + offset
        for column in range(0, width, strip):
            gradients = _load_strip(
                gradient, row, column, height, width, channel, is_channel, 0, gradient_stride, 0, strip
            )
            factors = _load_strip(factor, row, column, height, width, channel, is_factor, 0, factor_stride, 0, strip)
            gradients = _multiply(gradients, factors, is_factor, strip)
            new = ()
            for i in tl.static_range(size):
                values = _load_strip(
                    source, row, column, height, width, channel, is_channel,
                    i - border, source_stride, -border, strip + size - 1,
                )  # fmt: skip
                for j in tl.static_range(size):
                    total = sums[i * size + j]
                    for k in tl.static_range(strip):
                        total += values[k + j] * gradients[k]
                    new = new + (total,)  # noqa: RUF005
            total = sums[taps]
            for k in tl.static_range(strip):
                total += gradients[k]
            sums = new + (total,)  # noqa: RUF005
    start = partial + tl.program_id(0).to(tl.int64) * (taps + 1) * channels + channel
    for tap in tl.static_range(taps + 1):
        tl.store(start + tap * channels, sums[tap], mask=is_channel)


def _launch_convolve(
    source: Tensor,
    factor: Tensor,
    weight: Tensor,
    bias: Tensor,
    out: Tensor,
    *,
    channels: int,
    num_factors: int,
    scale: float,
    is_input_gradient: bool = False,
) -> None:
    """Convolve the first `channels` channels of (B, H, W, ...) tensors, which may be slices of wider ones."""
    batch, height, width, _ = source.shape
    taps = weight.flatten(1).float()
    if is_input_gradient:
        taps = taps.flip(1)
    taps = taps.t().contiguous()
    grid = (batch * height * triton.cdiv(width, STRIP), triton.cdiv(channels, BLOCK_CHANNELS))
    _convolve[grid](
        source, factor, taps, bias, out,
        height, width, channels, num_factors, scale,
        source.stride(2), factor.stride(2), taps.stride(0), out.stride(2),
        is_input_gradient=is_input_gradient, size=SIZE, strip=STRIP, block=BLOCK_CHANNELS, num_warps=1,
    )  # fmt: skip


@torch.library.custom_op("hornet::gated_depthwise", mutates_args=())
def gated_depthwise(y: Tensor, weight: Tensor, bias: Tensor, num_gate_channels: int, scale: float) -> Tensor:
    """(B, H, W, G + S), (S, 1, 7, 7), (S) -> (B, H, W, S) in the dtype of y; G is `num_gate_channels`, at most S."""
    y = y.contiguous()
    z = y.new_empty((*y.shape[:3], weight.shape[0]))
    q = y[..., num_gate_channels:]
    channels = weight.shape[0]
    _launch_convolve(q, y, weight, bias, z, channels=channels, num_factors=num_gate_channels, scale=scale)
    return z


@gated_depthwise.register_fake
def _(y: Tensor, weight: Tensor, bias: Tensor, num_gate_channels: int, scale: float) -> Tensor:
    return y.new_empty((*y.shape[:3], weight.shape[0]))


@torch.library.custom_op("hornet::gated_depthwise_backward", mutates_args=())
def gated_depthwise_backward(
    gradient: Tensor, y: Tensor, weight: Tensor, bias: Tensor, num_gate_channels: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of y, weight and bias, in their shapes and dtypes. The gate's factor is convolved again, not kept."""
    y, gradient = y.contiguous(), gradient.contiguous()
    channels = weight.shape[0]
    q = y[..., num_gate_channels:]
    y_gradient = torch.empty_like(y)
    q_gradient = y_gradient[..., num_gate_channels:]
    _launch_convolve(
        gradient, y, weight, bias, q_gradient,
        channels=channels, num_factors=num_gate_channels, scale=scale, is_input_gradient=True,
    )  # fmt: skip
    # p's gradient is the forward pass again, with the gradient as its factor.
    _launch_convolve(
        q, gradient, weight, bias, y_gradient,
        channels=num_gate_channels, num_factors=num_gate_channels, scale=scale,
    )  # fmt: skip
    num_rows = y.shape[0] * y.shape[1]
    num_programs = triton.cdiv(num_rows, ROWS_A_PROGRAM)
    partial = torch.empty(num_programs, SIZE**2 + 1, channels, device=y.device, dtype=torch.float32)
    _correlate[(num_programs, triton.cdiv(channels, WEIGHT_BLOCK_CHANNELS))](
        q, gradient, y, partial,
        num_rows, y.shape[1], y.shape[2], channels, num_gate_channels,
        y.shape[3], channels, y.shape[3],
        rows=ROWS_A_PROGRAM, size=SIZE, strip=WEIGHT_STRIP, block=WEIGHT_BLOCK_CHANNELS, num_warps=1,
    )  # fmt: skip
    sums = partial.sum(0) * scale
    # An operator's results may not share memory.
    weight_gradient = sums[:-1].t().reshape(weight.shape).to(weight.dtype).clone(memory_format=torch.contiguous_format)
    return y_gradient, weight_gradient, sums[-1].to(bias.dtype, copy=True)


@gated_depthwise_backward.register_fake
def _(
    gradient: Tensor, y: Tensor, weight: Tensor, bias: Tensor, num_gate_channels: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return y.new_empty(y.shape), weight.new_empty(weight.shape), bias.new_empty(bias.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int, float], output: Tensor) -> None:
    y, weight, bias, ctx.num_gate_channels, ctx.scale = inputs
    ctx.save_for_backward(y, weight, bias)


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
    y, weight, bias = ctx.saved_tensors
    gradients = gated_depthwise_backward(gradient, y, weight, bias, ctx.num_gate_channels, ctx.scale)
    return *gradients, None, None


gated_depthwise.register_autograd(_differentiate, setup_context=_keep)

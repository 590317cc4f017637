"""What the gated depthwise convolution must give: under Triton's interpreter (interpreted.py), on GPUs (tests/gpu)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hornet.model.kernels.depthwise import gated_depthwise

SCALE = 1 / 3

# (B, H, W, gate channels, channels): sides that no strip divides, sides below the kernel's, channels over a block's 64,
# as many gate channels as channels, several images.
SHAPES = [(2, 1, 9, 4, 12), (1, 1, 17, 2, 70), (2, 1, 1, 4, 12), (1, 7, 5, 8, 8)]


@dataclass(frozen=True, kw_only=True)
class Case:
    y: Tensor
    weight: Tensor
    bias: Tensor
    gradient: Tensor


def make_case(shape: tuple[int, ...], *, device: str, dtype: torch.dtype) -> Case:
    batch, height, width, gate, channels = shape
    generator = torch.Generator().manual_seed(0)

    def draw(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator).to(device)

    return Case(
        y=draw(batch, height, width, gate + channels).to(dtype).requires_grad_(),
        weight=draw(channels, 1, 7, 7).requires_grad_(),
        bias=draw(channels).requires_grad_(),
        gradient=draw(batch, height, width, channels).to(dtype),
    )


def compute_reference(y: Tensor, weight: Tensor, bias: Tensor, *, gate: int) -> Tensor:
    """The definition, as a sum over the 49 shifts."""
    p, q = y[..., :gate], y[..., gate:]
    height, width = y.shape[1:3]
    padded = torch.nn.functional.pad(q, (0, 0, 3, 3, 3, 3))
    total = bias + sum(
        padded[:, i : i + height, j : j + width] * weight[:, 0, i, j] for i in range(7) for j in range(7)
    )
    z = SCALE * total
    return torch.cat([z[..., :gate] * p, z[..., gate:]], dim=-1)


def run_kernel(case: Case) -> list[Tensor]:
    """Output and the gradients of y, weight and bias."""
    gate = case.y.shape[-1] - case.bias.shape[0]
    z = gated_depthwise(case.y, case.weight, case.bias, gate, SCALE)
    return [z.detach(), *torch.autograd.grad(z, [case.y, case.weight, case.bias], case.gradient)]


def require_agreement(shape: tuple[int, ...], *, device: str, dtype: torch.dtype) -> None:
    case = make_case(shape, device=device, dtype=dtype)
    exact = [tensor.detach().double().requires_grad_() for tensor in (case.y, case.weight, case.bias)]
    z = compute_reference(*exact, gate=shape[3])
    expected = [z.detach(), *torch.autograd.grad(z, exact, case.gradient.double())]
    for name, ours, reference in zip(("z", "y", "weight", "bias"), run_kernel(case), expected, strict=True):
        assert ours.dtype is (torch.float32 if name in ("weight", "bias") else dtype), name
        # Sums in float32, brought to the result's type once: GPUs round, the interpreter cuts off.
        apart = (ours.double() - reference).abs()
        allowed = torch.finfo(ours.dtype).eps * reference.abs() + 2e-6 * reference.abs().max()
        assert (apart <= allowed).all(), name

"""What the gated depthwise convolution must give, for Triton's interpreter (interpreted.py) and for GPUs (tests/gpu)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hornet.model.kernels.depthwise import gated_depthwise

SCALE = 1 / 3

# (B, H, W, gate channels, channels): sides that no strip divides, sides below the kernel's, channels over a block's 64,
# as many gate channels as channels, rows for more than one program of the weight gradient.
SHAPES = [(2, 5, 9, 4, 12), (1, 8, 17, 2, 70), (2, 1, 1, 4, 12), (1, 7, 7, 8, 8), (3, 7, 2, 16, 24)]


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
        # Rounding of the result once, on top of sums in float32.
        relative = torch.finfo(ours.dtype).eps / 2
        apart = (ours.double() - reference).abs()
        assert (apart <= 1.01 * relative * reference.abs() + 2e-6 * reference.abs().max()).all(), name


def require_gradient_of_output(shape: tuple[int, ...], *, device: str) -> None:
    """Central differences; exact up to rounding, since the output is at most quadratic in each input."""
    case = make_case(shape, device=device, dtype=torch.float32)
    inputs = {"y": case.y, "weight": case.weight, "bias": case.bias}
    gradients = dict(zip(inputs, run_kernel(case)[1:], strict=True))
    for name, tensor in inputs.items():
        direction = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)).to(device)
        ends = [
            run_kernel(Case(**{**vars(case), name: (tensor.detach() + step * direction).requires_grad_()}))[0]
            for step in (0.5, -0.5)
        ]
        difference = ((ends[0] - ends[1]).double() * case.gradient).sum()
        predicted = (gradients[name].double() * direction).sum()
        assert abs(difference - predicted) <= 1e-4 * max(abs(difference), 1.0), name

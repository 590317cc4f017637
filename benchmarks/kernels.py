"""Each kernel of hornet/model/kernels against the plain operators it replaces, forward and backward.

  python -m benchmarks.kernels                 # the 7x7 stages of HorNet-L at 224 pixels, on this machine's GPU

The limit is what must be moved: inputs and gradients read once, results written once, at the bandwidth of a large copy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.machine import describe_machine, measure_copy_bandwidth
from hornet.model.convolution import DepthwiseConv, build_depthwise_conv
from hornet.model.gnconv import split_channels

SCALE = 1 / 3
ORDERS = (2, 3, 4, 5)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Times of the gated depthwise convolution in one stage."""

    stage: int
    shape: tuple[int, int, int, int]
    """Of proj_in's output: batch, height, width, channels."""
    seconds: dict[str, float]
    """By contender, forward and backward."""
    limit_seconds: float


class Plain(nn.Module):
    """As GnConv does it without kernels."""

    def __init__(self, conv: DepthwiseConv, num_gate_channels: int) -> None:
        super().__init__()
        self.conv, self.num_gate_channels = conv, num_gate_channels

    def forward(self, y_bhwc: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W, gate + channels) -> (B, H, W, gate), gated, and the other channels' (B, H, W, channels - gate)."""
        gate, channels = self.num_gate_channels, self.conv.out_channels
        first, spatial = y_bhwc.split([gate, channels], dim=-1)
        first_gate, others = (self.conv(spatial) * SCALE).split([gate, channels - gate], dim=-1)
        return first * first_gate, others


class Fused(Plain):
    """The same in one kernel."""

    def forward(self, y_bhwc: Tensor) -> tuple[Tensor, Tensor]:
        """As above."""
        z = self.conv(y_bhwc, num_gate_channels=self.num_gate_channels, scale=SCALE)
        first, others = z.split([self.num_gate_channels, z.shape[-1] - self.num_gate_channels], dim=-1)
        return first, others


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse_options(arguments)
    device = torch.device(options.device)
    bandwidth = measure_copy_bandwidth(device)
    machine = {**describe_machine(device), "copy_bytes_per_second": bandwidth}
    print("  ".join(f"{key}: {value}" for key, value in machine.items()))
    comparisons = []
    for stage in options.stages:
        comparisons.append(compare(stage, options, device=device, bandwidth=bandwidth))
        print_comparison(comparisons[-1])
    if options.json is not None:
        content = {"machine": machine, "comparisons": [asdict(comparison) for comparison in comparisons]}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=192, help="channels of the first stage (default %(default)s)")
    parser.add_argument("--side", type=int, default=56, help="of the first stage's map (default %(default)s)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--stages", type=int, nargs="+", default=[1, 2, 3, 4], choices=[1, 2, 3, 4])
    parser.add_argument("--contenders", default="plain,plain-compiled,fused")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20, help="steps a round")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, help="write everything here too")
    return parser.parse_args(arguments)


def compare(stage: int, options: argparse.Namespace, *, device: torch.device, bandwidth: float) -> Comparison:
    """Let the contenders take turns on one stage's tensors."""
    channels, side = options.width * 2 ** (stage - 1), options.side // 2 ** (stage - 1)
    gates = split_channels(channels, ORDERS[stage - 1])
    conv = build_depthwise_conv(sum(gates), kernel_size=7, bias=True).to(device)
    y = torch.randn(options.batch, side, side, gates[0] + sum(gates), device=device, dtype=torch.bfloat16)
    gradient = torch.randn(options.batch, side, side, sum(gates), device=device, dtype=torch.bfloat16)
    names = options.contenders.split(",")
    steps = {name: make_step(name, conv, y, gradient, num_gate_channels=gates[0]) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for step in steps.values():
        time_steps(step, 3, device)
    for _ in range(options.rounds):
        for name, step in steps.items():
            seconds[name].append(time_steps(step, options.steps, device))
    # Forward: y -> z; backward: y, z's gradient -> y's gradient.
    num_bytes = 3 * y.nbytes + 2 * gradient.nbytes
    return Comparison(
        stage=stage,
        shape=(y.shape[0], y.shape[1], y.shape[2], y.shape[3]),
        seconds={name: statistics.median(times) for name, times in seconds.items()},
        limit_seconds=num_bytes / bandwidth,
    )


def make_step(
    name: str, conv: DepthwiseConv, y: Tensor, gradient: Tensor, *, num_gate_channels: int
) -> Callable[[], None]:
    """Return forward and backward of one contender, under autocast as in training."""
    what, _, is_compiled = name.partition("-")
    if what == "fused":
        import hornet.model.kernels.depthwise  # noqa: F401  registers the operator
    module = (Fused if what == "fused" else Plain)(conv, num_gate_channels)
    if is_compiled:
        module.compile()
    y = y.detach().requires_grad_()
    gradients = gradient.split([num_gate_channels, gradient.shape[-1] - num_gate_channels], dim=-1)

    def step() -> None:
        with torch.autocast(y.device.type, dtype=torch.bfloat16):
            outputs = module(y)
        torch.autograd.grad(outputs, [y, *conv.parameters()], gradients)

    return step


def time_steps(step: Callable[[], None], num_steps: int, device: torch.device) -> float:
    """Return the seconds of one of `num_steps` steps."""
    started = time.perf_counter()
    for _ in range(num_steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / num_steps


def print_comparison(comparison: Comparison) -> None:
    """Print one stage's line."""
    first = next(iter(comparison.seconds.values()))
    times = ", ".join(
        f"{name} {1e6 * seconds:.0f} us ({first / seconds:.2f}x, {100 * comparison.limit_seconds / seconds:.0f} % of "
        "the limit)"
        for name, seconds in comparison.seconds.items()
    )
    print(f"  gated depthwise 7x7, stage {comparison.stage} {comparison.shape}: {times}")


if __name__ == "__main__":
    main()

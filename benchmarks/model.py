"""HorNet's speed and memory against a literal implementation of it and timm's ConvNeXt and Swin, in one process.

  python -m benchmarks.model                                   # this machine's GPU, or its CPU with hornet_tiny_gf
  python -m benchmarks.model --size large --precision bf16 --batch 64 --json large.json
  python -m benchmarks.model --mode inference --contenders ours,literal
  python -m benchmarks.model --breakdown ours                  # where a step's time goes, operation by operation

A training step is forward, cross entropy, backward and fused AdamW. The contenders take turns; printed are medians over
the rounds, and of the ratios to the first contender within each round, with their range. MFU counts each network's own
multiply-adds, times 2, times 3 for training, over the measured rate of a large matrix product on this machine.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm, trange

import hornet  # noqa: F401  registers the models
from benchmarks.literal import LiteralHorNet
from benchmarks.machine import describe_machine, measure_copy_bandwidth, measure_product_rate
from hornet.model.hornet import HorNet
from hornet.model.sizes import VARIANTS

CONTENDERS = (
    "literal", "ours", "ours-compiled", "ours-fused", "ours-fused-compiled", "convnext", "convnext-compiled", "swin"
)  # fmt: skip
SIZES = ("atto", "femto", "pico", "nano", "tiny", "small", "base", "large")
"""The three families share them; Swin begins at tiny."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all contenders do."""

    size: str
    kind: str
    resolution: tuple[int, int]
    """Height and width in pixels."""
    batch: int
    precision: str
    mode: str
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """Of autocast, and of the matrix product that MFU is measured by."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one contender showed."""

    name: str
    seconds: list[float]
    """Of a step, by round."""
    flops_per_image: float
    """Multiply-adds of one forward pass, times 2."""
    peak_bytes: int
    """On a GPU the peak allocated in a step, alone; on a CPU what autograd keeps for the backward pass."""
    first_step_seconds: float
    """With compilation, if any."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse_options(arguments)
    setting = make_setting(options)
    torch.manual_seed(0)
    names = options.contenders.split(",")
    if options.breakdown is not None:
        print_breakdown(options.breakdown, setting)
        return
    results = measure(names, setting, num_rounds=options.rounds, num_steps=options.steps)
    machine = {
        **describe_machine(setting.device),
        "product_flops": measure_product_rate(setting.device, setting.dtype),
        "copy_bytes_per_second": measure_copy_bandwidth(setting.device),
    }
    print_results(results, setting, machine)
    if options.json is not None:
        content = {
            "machine": machine,
            "setting": {**asdict(setting), "device": str(setting.device)},
            "results": [asdict(result) for result in results],
        }
        options.json.write_text(json.dumps(content, indent=2) + "\n")


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    has_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="large" if has_gpu else "tiny", choices=SIZES)
    parser.add_argument("--kind", default="gf", choices=["gf", "7x7"])
    parser.add_argument(
        "--resolution", type=parse_resolution, default="224", help="pixels, or HEIGHTxWIDTH (default %(default)s)"
    )
    parser.add_argument("--batch", type=int, default=64 if has_gpu else 8, help="images a step (default %(default)s)")
    parser.add_argument("--precision", default="bf16" if has_gpu else "fp32", choices=["bf16", "fp32"])
    parser.add_argument("--mode", default="training", choices=["training", "inference"])
    parser.add_argument("--device", default="cuda" if has_gpu else "cpu")
    parser.add_argument("--contenders", default="literal,ours,convnext", help=f"of {', '.join(CONTENDERS)}")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10 if has_gpu else 1, help="steps a round")
    parser.add_argument("--json", type=Path, help="write everything here too")
    parser.add_argument("--breakdown", metavar="CONTENDER", help="print one contender's operations instead")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.contenders.split(",")) - set(CONTENDERS))
    if unknown:
        parser.error(f"--contenders: {', '.join(unknown)} unknown; choose among {', '.join(CONTENDERS)}")
    return options


def parse_resolution(text: str) -> tuple[int, int]:
    """Read "224" or "512x768" (height x width)."""
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def make_setting(options: argparse.Namespace) -> Setting:
    """Return what the command line asks for."""
    return Setting(
        size=options.size,
        kind=options.kind,
        resolution=options.resolution,
        batch=options.batch,
        precision=options.precision,
        mode=options.mode,
        device=torch.device(options.device),
    )


def build(name: str, setting: Setting) -> nn.Module:
    """Build a contender; HorNets start from the same weights."""
    what, *ways = name.split("-")
    hornet_name = f"hornet_{setting.size}_{setting.kind}"
    model: nn.Module
    if what == "convnext":
        model = timm.create_model(f"convnext_{setting.size}").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    elif what == "swin":
        model = timm.create_model(f"swin_{setting.size}_patch4_window7_224", img_size=setting.resolution)
    else:
        torch.manual_seed(0)
        model = timm.create_model(hornet_name)
        if "fused" in ways:
            cast(HorNet, model).use_kernels("fused")
        if what == "literal":
            weights = model.state_dict()
            model = LiteralHorNet(**VARIANTS[hornet_name])
            model.load_state_dict(weights)
    model = model.to(setting.device)
    if "compiled" in ways:
        model.compile()
    return model.train() if setting.mode == "training" else model.eval()


def make_step(model: nn.Module, setting: Setting) -> Callable[[], None]:
    """Return one step of the mode, on random images."""
    images = torch.randn(setting.batch, 3, *setting.resolution, device=setting.device)
    labels = torch.randint(1000, (setting.batch,), device=setting.device)
    is_autocast = setting.precision == "bf16"

    def compute() -> Tensor:
        with torch.autocast(setting.device.type, dtype=torch.bfloat16, enabled=is_autocast):
            logits: Tensor = model(images)
        return logits

    if setting.mode == "inference":

        def infer() -> None:
            with torch.inference_mode():
                compute()

        return infer
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def train() -> None:
        functional.cross_entropy(compute().float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return train


def measure(names: list[str], setting: Setting, *, num_rounds: int, num_steps: int) -> list[Result]:
    """Let the contenders take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    steps, about = {}, {}
    for name in tqdm(names, desc="warming up", disable=None, leave=False):
        peak_bytes = measure_memory(name, setting)
        model = build(name, setting)
        flops = count_flops(name, setting)
        steps[name] = make_step(model, setting)
        started = time.perf_counter()
        run(steps[name], 1, setting.device)
        about[name] = (flops, peak_bytes, time.perf_counter() - started)
        run(steps[name], 2, setting.device)
    for _ in trange(num_rounds, desc="rounds", disable=None, leave=False):
        for name in names:
            started = time.perf_counter()
            run(steps[name], num_steps, setting.device)
            seconds[name].append((time.perf_counter() - started) / num_steps)
    return [
        Result(
            name=name,
            seconds=seconds[name],
            flops_per_image=about[name][0],
            peak_bytes=about[name][1],
            first_step_seconds=about[name][2],
        )
        for name in names
    ]


def run(step: Callable[[], None], num_steps: int, device: torch.device) -> None:
    """Run steps to their end on the device."""
    for _ in range(num_steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def count_flops(name: str, setting: Setting) -> float:
    """Operations of one image's forward pass, as torch counts matrix products and convolutions."""
    eager = name.partition("-")[0]
    with torch.device("meta"):
        model = build(
            eager if eager != "literal" else "ours", Setting(**{**vars(setting), "device": torch.device("meta")})
        )
        images = torch.empty(1, 3, *setting.resolution)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(images)
    return float(counter.get_total_flops())


def measure_memory(name: str, setting: Setting) -> int:
    """Return the most a contender holds in its second step."""
    model = build(name, setting)
    step = make_step(model, setting)
    if setting.device.type == "cuda":
        base = torch.cuda.memory_allocated(setting.device)
        run(step, 1, setting.device)
        torch.cuda.reset_peak_memory_stats(setting.device)
        run(step, 1, setting.device)
        peak = torch.cuda.max_memory_allocated(setting.device) - base
        peak += sum(parameter.nbytes for parameter in model.parameters())
    else:
        saved: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            step()
        peak = sum(saved.values())
    del model, step
    gc.collect()
    if setting.device.type == "cuda":
        torch.cuda.empty_cache()
    return peak


def print_results(results: list[Result], setting: Setting, machine: dict[str, object]) -> None:
    """Print the table."""
    product_flops = float(machine["product_flops"])  # type: ignore[arg-type]
    first = results[0]
    print("  ".join(f"{key}: {value}" for key, value in machine.items()))
    print(
        f"{setting.mode}, {setting.size} {setting.kind}, {setting.resolution[0]}x{setting.resolution[1]} pixels, "
        f"batch {setting.batch}, {setting.precision}, {setting.device}"
    )
    print(
        f"  {'':<18} {'img/s':>9} {'speed to ' + first.name:>28} {'MFU':>6} {'memory':>10} {'to it':>6} "
        f"{'first step':>11}"
    )
    for result in results:
        rate = setting.batch / statistics.median(result.seconds)
        ratios = [mine / other for mine, other in zip(first.seconds, result.seconds, strict=True)]
        passes = 3 if setting.mode == "training" else 1
        mfu = rate * passes * result.flops_per_image / product_flops
        speed = f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
        print(
            f"  {result.name:<18} {rate:9.2f} {speed:>28} {100 * mfu:5.1f}% {result.peak_bytes / 2**30:7.2f} GiB "
            f"{result.peak_bytes / max(1, first.peak_bytes):5.2f}x {result.first_step_seconds:9.1f} s"
        )


def print_breakdown(name: str, setting: Setting) -> None:
    """Print where the time of one contender's step goes."""
    step = make_step(build(name, setting), setting)
    run(step, 3, setting.device)
    activities = [torch.profiler.ProfilerActivity.CPU]
    is_cuda = setting.device.type == "cuda"
    if is_cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, record_shapes=True) as profile:
        run(step, 1, setting.device)
    order = "self_device_time_total" if is_cuda else "self_cpu_time_total"
    print(profile.key_averages(group_by_input_shape=True).table(sort_by=order, row_limit=40, max_src_column_width=40))


if __name__ == "__main__":
    main()

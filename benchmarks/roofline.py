"""How fast a HorNet's training step could be, on paper: what must be computed and moved, and what eager code moves.

  python -m benchmarks.roofline                                   # HorNet-L GF at 224 pixels on an H200
  python -m benchmarks.roofline --model hornet_large_7x7 --resolution 512x768 --batch 32
  python -m benchmarks.roofline --measure                         # with this machine's own rates

"must": each matrix product, each depthwise convolution and each filter is one kernel that reads its inputs once and
writes its results once; norms, gates, GELU, layer scale, drop path and residual sum happen in the kernel that produces
or consumes their tensor. Kept for the backward pass is what the next kernel has to read anyway; elementwise results and
spectra are computed again. Activations have 2 bytes; the sum that runs through the blocks keeps 4, or a layer scale of
1e-6 would leave no trace in it. "eager": every operator by itself, counted by benchmarks/traffic.py. A kernel takes the
longer of its computing and its moving; starting it is free.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import timm
import torch
from torch import nn

import hornet  # noqa: F401  registers the models
from benchmarks.literal import LiteralHorNet
from benchmarks.machine import measure_copy_bandwidth, measure_product_rate
from benchmarks.model import parse_resolution
from benchmarks.necessary import list_necessary_work
from benchmarks.traffic import Traffic, count_traffic
from benchmarks.work import Rates, Row, Work, add_up, add_up_all
from hornet.model.cost import count_multiply_adds, count_parameters, count_training_flops
from hornet.model.hornet import HorNet
from hornet.model.sizes import ISOTROPIC_VARIANTS, VARIANTS

DROP_PATH_RATE = 0.1
"""Any rate above 0 costs the same."""


def list_eager_work(traffic: list[Traffic], *, num_parameters: int, num_images: int) -> list[Work]:
    """Put each counted operator in its place; the optimizer is as above without what the count already has."""
    work = [
        Work(
            part=_name_part(operator.modules),
            kind=_name_kind(operator),
            is_backward=operator.is_backward,
            flops=operator.flops,
            num_bytes=operator.num_bytes,
            is_vector=operator.groups > 1 or operator.dtype is torch.float32,
        )
        for operator in traffic
    ]
    optimizer = 28 * num_parameters / num_images
    return [*work, Work(part="weights", kind="optimizer", is_backward=True, flops=0, num_bytes=optimizer)]


def _name_part(modules: frozenset[str]) -> str:
    for name in modules:
        if found := re.search(r"\.(?:stages|downsample_layers)\.(\d)", name):
            return f"stage_{int(found[1]) + 1}"
    return "head"


PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")


def _name_kind(operator: Traffic) -> str:
    in_filter = any(name.endswith(".dwconv") for name in operator.modules)
    name = operator.operator
    if name.startswith("convolution"):
        return "depthwise" if operator.groups > 1 else "patch"
    if "layer_norm" in name:
        return "norm"
    if "gelu" in name:
        return "activation"
    if _name_part(operator.modules) == "head":
        return "head"
    if name == "_to_copy":
        return "casts"
    if in_filter:
        return "filter"
    if name in PRODUCTS:
        return "pointwise"
    if any(name.endswith(".gnconv") for name in operator.modules):
        return "gates"
    return "residual"


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute and print."""
    options = parse_options(arguments)
    rates = choose_rates(options)
    size, num_images = options.resolution, options.batch
    model = build_without_contents(options.model)
    assert isinstance(model, HorNet)
    must = list_necessary_work(model, size, num_images=num_images)
    training_flops, forward_flops = count_training_flops(model, size), count_multiply_adds(model, size).executed
    eager = {
        name: list_eager_work(
            count_traffic(other, image_size=size, num_images=num_images, is_bf16=True),
            num_parameters=count_parameters(other),
            num_images=num_images,
        )
        for name, other in {"eager": model, **build_others(options.model)}.items()
    }
    print(
        f"{options.model}, {size[0]}x{size[1]} pixels, batch {num_images}, training step in bf16 autocast, an image\n"
        f"at {rates.product_flops / 1e12:.0f} TFLOP/s in products, {rates.vector_flops / 1e12:.0f} elsewhere, "
        f"{rates.bandwidth / 1e12:.2f} TB/s; forward {forward_flops / 1e9:.2f} GMAC\n"
    )
    print_table(add_up(must, rates), add_up(eager["eager"], rates))
    totals = {name: add_up_all(work, rates) for name, work in {"must": must, **eager}.items()}
    for name, total in totals.items():
        mfu = f", MFU {100 * training_flops / total.seconds / rates.product_flops:.0f} %" if name in OURS else ""
        print(
            f"{name:<14} {total.flops / 1e9:7.1f} GFLOP {total.num_bytes / 1e6:8.1f} MB {total.seconds * 1e6:7.1f} us "
            f"= {1 / total.seconds:6.0f} img/s{mfu}, {100 * total.memory_share:.0f} % of it waiting for memory"
        )
    if options.json is not None:
        content = {"rates": asdict(rates), **{name: asdict(total) for name, total in totals.items()}}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


OURS = ("must", "eager")


def build_without_contents(name: str) -> nn.Module:
    """Build one of timm's models on the meta device."""
    with torch.device("meta"):
        model: nn.Module = timm.create_model(name, drop_path_rate=DROP_PATH_RATE)
    return model


def build_others(name: str) -> dict[str, nn.Module]:
    """Build what benchmarks/model.py compares a HorNet with, where it exists in that size."""
    with torch.device("meta"):
        others: dict[str, nn.Module] = {"literal": LiteralHorNet(**VARIANTS[name], drop_path_rate=DROP_PATH_RATE)}
    size = name.split("_")[1]
    if f"convnext_{size}" in timm.list_models("convnext_*"):
        others["convnext eager"] = build_without_contents(f"convnext_{size}")
    return others


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    usual = Rates()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model",
        default="hornet_large_gf",
        choices=sorted(VARIANTS.keys() - ISOTROPIC_VARIANTS.keys()),
        metavar="NAME",
    )
    parser.add_argument(
        "--resolution", type=parse_resolution, default="224", help="pixels, or HEIGHTxWIDTH (default %(default)s)"
    )
    parser.add_argument(
        "--batch", type=int, default=64, help="images that share the weights' traffic (default %(default)s)"
    )
    parser.add_argument("--flops", type=float, default=usual.product_flops, help="a second, bf16 products")
    parser.add_argument(
        "--vector-flops", type=float, default=usual.vector_flops, help="a second, float32, no tensor cores"
    )
    parser.add_argument("--bandwidth", type=float, default=usual.bandwidth, help="bytes a second")
    parser.add_argument(
        "--measure", action="store_true", help="take products and bandwidth of this machine's GPU, or CPU"
    )
    parser.add_argument("--json", type=Path, help="write rates and totals here too")
    return parser.parse_args(arguments)


def choose_rates(options: argparse.Namespace) -> Rates:
    """Return the given rates, or what this machine shows."""
    if not options.measure:
        return Rates(product_flops=options.flops, vector_flops=options.vector_flops, bandwidth=options.bandwidth)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Rates(
        product_flops=measure_product_rate(device, torch.bfloat16),
        vector_flops=measure_product_rate(device, torch.float32),
        bandwidth=measure_copy_bandwidth(device),
    )


def print_table(must: dict[tuple[str, str], Row], eager: dict[tuple[str, str], Row]) -> None:
    """Print one line for each part and kind, times in microseconds an image, and what could be gained by kind."""
    print(f"{'':<24} {'GFLOP':>8} | {'must: MB':>9} {'us':>7}  waits for | {'eager: MB':>10} {'us':>7}")
    nothing = Row(flops=0, num_bytes=0, seconds=0, memory_share=0)
    gains: dict[str, float] = {}
    for part, kind in sorted(dict.fromkeys([*must, *eager])):
        best, today = must.get((part, kind), nothing), eager.get((part, kind), nothing)
        limit = "" if not best.seconds else "memory" if best.memory_share > 0.5 else "computing"
        print(
            f"{part:<8} {kind:<15} {best.flops / 1e9:8.2f} | {best.num_bytes / 1e6:9.2f} {best.seconds * 1e6:7.2f}  "
            f"{limit:<9} | {today.num_bytes / 1e6:10.2f} {today.seconds * 1e6:7.2f}"
        )
        gains[kind] = gains.get(kind, 0.0) + today.seconds - best.seconds
    print("\nto gain by kind, us an image:", end=" ")
    print(
        ", ".join(f"{kind} {gain * 1e6:.0f}" for kind, gain in sorted(gains.items(), key=lambda item: -item[1])), "\n"
    )


if __name__ == "__main__":
    main()

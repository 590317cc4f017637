"""The largest batch that a training step of each contender of benchmarks/model.py fits into the GPU's memory.

python -m benchmarks.largest_batch --size large --contenders literal,ours,convnext
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.model import CONTENDERS, SIZES, Setting, build, make_step, parse_resolution, run


def main(arguments: Sequence[str] | None = None) -> None:
    """Search and print."""
    options = parse_options(arguments)
    setting = Setting(
        size=options.size,
        kind=options.kind,
        resolution=options.resolution,
        batch=1,
        precision="bf16",
        mode="training",
        device=torch.device(options.device),
    )
    print(f"largest batches, {options.size} {options.kind}, {setting.resolution[0]}x{setting.resolution[1]}, bf16")
    found = {}
    for name in options.contenders.split(","):
        found[name] = find_largest(functools.partial(does_fit, name, setting), limit=options.limit)
        print(f"  {name:<18} {found[name]:6} images" + (" (the limit)" if found[name] == options.limit else ""))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="large", choices=SIZES)
    parser.add_argument("--kind", default="gf", choices=["gf", "7x7"])
    parser.add_argument(
        "--resolution", type=parse_resolution, default="224", help="pixels, or HEIGHTxWIDTH (default %(default)s)"
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--contenders", default="literal,ours,convnext", help=f"of {', '.join(CONTENDERS)}")
    parser.add_argument("--limit", type=int, default=4096, help="try no batch above this (default %(default)s)")
    parser.add_argument("--json", type=Path, help="write the batches here too")
    return parser.parse_args(arguments)


def find_largest(does_fit: Callable[[int], bool], *, limit: int) -> int:
    """Return the largest batch up to `limit` that fits, to 1 in 16; 0 if not even one image does."""
    fitting, failing = 0, limit + 1
    batch = 1
    while fitting < limit and failing - fitting > max(1, fitting // 16):
        if does_fit(batch):
            fitting = batch
        else:
            failing = batch
        batch = min(2 * fitting, limit) if failing > limit else (fitting + failing) // 2
    return fitting


def does_fit(name: str, setting: Setting, batch: int) -> bool:
    """Try two steps, the second with the optimizer's state in place."""
    try:
        run(make_step(build(name, setting), replace(setting, batch=batch)), 2, setting.device)
    except torch.OutOfMemoryError:
        return False
    finally:
        gc.collect()
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()
    return True


if __name__ == "__main__":
    main()

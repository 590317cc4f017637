"""All that waits for a GPU, in one command: tests, speed, memory, kernels, limits; in 8 minutes what they allow.

  python -m benchmarks.gpu --out gpu-results          # one GPU; torch, timm, wrapt and pytest are enough
  python -m benchmarks.gpu --out smoke --smoke        # a rehearsal on the CPU with the smallest network

After each part it writes what stands: summary.md to read, results.json for machines, log.txt with all that was printed.
A part that fails or takes too long is noted and the next one starts, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import kernels, largest_batch, model, roofline

ROOT = Path(__file__).resolve().parents[1]

GOALS = {
    "speed to literal": "at least 3",
    "speed to convnext": "at least 1.0",
    "memory to literal": "at most 0.6",
    "MFU": "at least 0.4",
}
"""For our training step at 224 pixels."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One process's work."""

    name: str
    run: Callable[[Sequence[str]], object]
    arguments: list[str]
    limit_seconds: float
    writes_json: bool = True


def list_parts(*, is_smoke: bool) -> list[Part]:
    """Return the parts, the most wanted first."""
    if is_smoke:
        cpu = ["--device", "cpu"]
        step = [*cpu, "--size", "atto", "--resolution", "64", "--batch", "2", "--precision", "fp32", "--rounds", "1"]
        return [
            Part(name="tests", run=run_tests, arguments=[], limit_seconds=300, writes_json=False),
            Part(name="training 64", run=model.main, arguments=step, limit_seconds=300),
            Part(name="inference 64x96", run=model.main, limit_seconds=300, arguments=[
                *step, "--mode", "inference", "--resolution", "64x96", "--contenders", "ours", "--precision", "bf16",
            ]),
            Part(name="kernels", run=kernels.main, limit_seconds=300, arguments=[
                *cpu, "--width", "16", "--side", "8", "--batch", "1", "--stages", "1", "--contenders", "plain",
                "--rounds", "1", "--steps", "1",
            ]),
            Part(name="largest batch", run=largest_batch.main, limit_seconds=300, arguments=[
                *cpu, "--size", "atto", "--resolution", "32", "--contenders", "ours", "--limit", "1",
            ]),
        ]  # fmt: skip
    short = ["--rounds", "5", "--steps", "5"]
    eager = "literal,ours,ours-fused,convnext,swin"

    def measure(name: str, contenders: str, *more: str, limit_seconds: float) -> Part:
        arguments = [*short, "--contenders", contenders, *more]
        return Part(name=name, run=model.main, arguments=arguments, limit_seconds=limit_seconds)

    at_384, wide = ("--resolution", "384", "--batch", "32"), ("--resolution", "512x768", "--batch", "16")
    return [
        measure("training 224", eager, limit_seconds=90),
        measure("operations", "ours", "--breakdown", "ours", limit_seconds=60),
        Part(name="kernels", run=kernels.main, arguments=[], limit_seconds=60),
        measure("training 224, compiled", "ours,ours-compiled", limit_seconds=240),
        Part(name="tests", run=run_tests, arguments=[], limit_seconds=240, writes_json=False),
        Part(name="roofline", run=roofline.main, arguments=["--measure"], limit_seconds=45),
        measure("training 224, fused and compiled", "ours,ours-fused-compiled,convnext-compiled", limit_seconds=300),
        measure("inference 224", eager, "--mode", "inference", limit_seconds=60),
        Part(name="largest batch", run=largest_batch.main, arguments=[], limit_seconds=60),
        measure("training 512x768", "literal,ours,convnext", *wide, limit_seconds=45),
        measure("training 384", "literal,ours,convnext", *at_384, limit_seconds=45),
        measure(
            "inference 224, compiled", "ours,ours-compiled,convnext-compiled", "--mode", "inference", limit_seconds=180
        ),
    ]


def run_tests(arguments: Sequence[str]) -> None:
    """Run tests/gpu; a failure ends this process with pytest's status."""
    import pytest

    status = pytest.main([str(ROOT / "tests" / "gpu"), "-p", "no:cacheprovider", *arguments])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        sys.exit(int(status))


def main() -> None:
    """Run the parts one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for summary.md, results.json and log.txt")
    parser.add_argument(
        "--seconds", type=float, default=470, help="start and leave nothing after (default %(default)s)"
    )
    parser.add_argument("--smoke", action="store_true", help="rehearse on the CPU, with atto sizes")
    parser.add_argument("--parts", metavar="A+B", help="only these (default: all that time allows)")
    options = parser.parse_args()
    parts = {part.name: part for part in list_parts(is_smoke=options.smoke)}
    wanted = list(parts) if options.parts is None else options.parts.split("+")
    for name in wanted:
        if name not in parts:
            parser.error(f"--parts: no part is called {name!r}; there are {' + '.join(parts)}")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "log.txt").write_text("")
    ends, results, printed = time.monotonic() + options.seconds, {}, {}
    for part in (parts[name] for name in wanted):
        left = ends - time.monotonic()
        results[part.name], printed[part.name] = run_part(part, options.out, seconds=min(left, part.limit_seconds))
        outcome = f"{part.name}: {results[part.name]['outcome']} after {results[part.name]['seconds']:.0f} s"
        print(outcome, flush=True)
        with (options.out / "log.txt").open("a") as log:
            log.write(f"\n=== {outcome}\n{printed[part.name]}")
        (options.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        (options.out / "summary.md").write_text(summarize(results, printed))
    sys.exit(any(result["outcome"] != "done" for result in results.values()))


def run_part(part: Part, folder: Path, *, seconds: float) -> tuple[dict[str, Any], str]:
    """Run it in a forked process, which has all imports; return its result and what it printed."""
    if seconds < 10:
        return {"outcome": "no time left", "seconds": 0.0}, ""
    output, content = folder / "part.log", folder / "part.json"
    arguments = [*part.arguments, *(["--json", str(content)] if part.writes_json and part.name != "operations" else [])]
    # Nothing here has touched CUDA yet, so children may.
    process = multiprocessing.get_context("fork").Process(target=work, args=(part, arguments, output))
    started = time.monotonic()
    process.start()
    process.join(seconds)
    outcome = "done" if process.exitcode == 0 else "failed"
    if process.is_alive():
        outcome = "out of time"
        process.kill()
        process.join()
    result: dict[str, Any] = {"outcome": outcome, "seconds": time.monotonic() - started}
    if content.exists():
        result["content"] = json.loads(content.read_text())
        content.unlink()
    printed = output.read_text()
    output.unlink()
    return result, printed


def work(part: Part, arguments: list[str], output: Path) -> None:
    """Do a part's work, with all it prints, its children's words too, in a file."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    # By lines: a part that is killed has printed what it could.
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1, closefd=False)
    part.run(arguments)


def summarize(results: dict[str, dict[str, Any]], printed: dict[str, str]) -> str:
    """Return goals and tables; a failed part's last words."""
    lines = ["# Measured on a GPU\n", *list_goals(results)]
    for name, result in results.items():
        lines.append(f"## {name}: {result['outcome']} after {result['seconds']:.0f} s\n")
        words = printed[name].splitlines()
        lines += ["```", *(words if result["outcome"] == "done" else words[-30:]), "```\n"]
    return "\n".join(lines)


def list_goals(results: dict[str, dict[str, Any]]) -> list[str]:
    """Return a table of each of our ways to train at 224 pixels against each goal that was measured."""
    lines: list[str] = []
    others: dict[str, Any] = {}
    for part in ("training 224", "training 224, compiled"):
        if "content" not in results.get(part, {}):
            continue
        content = results[part]["content"]
        found = {result["name"]: result for result in content["results"]}
        others = {**found, **others}
        for name, result in found.items():
            if name.startswith("ours"):
                numbers = compare(result, others, content)
                lines += [f"| {name} | {goal} | {value:.2f} | {GOALS[goal]} |" for goal, value in numbers.items()]
    return ["| | | measured | goal |", "|---|---|---|---|", *lines, ""] if lines else []


def compare(result: dict[str, Any], others: dict[str, dict[str, Any]], content: dict[str, Any]) -> dict[str, float]:
    """Return one training result's numbers by goal; `content` has its setting and machine."""
    seconds = statistics.median(result["seconds"])
    flops = 3 * result["flops_per_image"] * content["setting"]["batch"]
    numbers = {"MFU": flops / seconds / content["machine"]["product_flops"]}
    for name in ("literal", "convnext"):
        if name in others:
            numbers[f"speed to {name}"] = statistics.median(others[name]["seconds"]) / seconds
    if "literal" in others:
        numbers["memory to literal"] = result["peak_bytes"] / others["literal"]["peak_bytes"]
    return numbers


if __name__ == "__main__":
    main()

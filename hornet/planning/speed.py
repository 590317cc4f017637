"""How long, how much energy, what price: from a share of the GPUs' rate that was measured, or is assumed."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from hornet.durable import read_json_lines
from hornet.errors import UserError
from hornet.hardware import Gpu
from hornet.planning.activations import Precision
from hornet.planning.network import NetworkPlan
from hornet.planning.question import Question
from hornet.runs.begun import read_run_config

ASSUMED_MFU = {"bf16": 0.10, "fp32": 0.03}
"""Of the dense bf16 rate; --from-run and --mfu replace it. HorNet moves many bytes a multiply-add, so it is far from
the 0.4 of plain matrix products: HorNet-L GF trained at 0.097 of an H100's rate in eager code (docs/benchmarks.md).
fp32 was not measured."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Of training on one GPU."""

    images_per_second: float
    mfu: float | None
    """Share of the dense bf16 rate; None where no rate is known."""
    source: str
    """Where it is from, for people."""


@dataclass(frozen=True, kw_only=True)
class Duration:
    """What a run takes on a number of GPUs."""

    step_seconds: float
    hours: float
    gpu_hours: float
    kilowatt_hours: float
    cost: float | None
    """In the currency of the price that was given."""


def choose_speed(question: Question, *, network: NetworkPlan, precision: Precision, run: Path | None) -> Speed:
    """Return the speed that a run measured, else what follows from the MFU that is given, else from an assumed one.

    Raises UserError if the run has no numbers, or none is known of the GPU.
    """
    peak = question.gpu.peak_tflops
    mfu, source = question.mfu, "given"
    if run is not None:
        measured = read_speed(run)
        if measured.mfu is None or peak is None:
            _require_same_network(run, network)
            return replace(measured, mfu=None)
        mfu, source = measured.mfu, measured.source
    if peak is None:
        raise UserError(
            f"gpu: the bf16 rate of {question.gpu.key} is not known, so no speed follows from an MFU; measure one on "
            "it (--from-run runs/NAME)"
        )
    if mfu is None:
        mfu, source = ASSUMED_MFU[precision], "assumed, not measured"
    return Speed(images_per_second=mfu * peak * 1e12 / network.training_flops_per_image, mfu=mfu, source=source)


def read_speed(run: Path) -> Speed:
    """Return the median speed over a run's metrics, the first row (start-up) left out; raises UserError if none."""
    if not run.is_dir():
        raise UserError(f"--from-run: {run} does not exist; give the directory of a run, such as runs/NAME")
    rows = read_json_lines(run / "metrics.jsonl")[1:]
    environment = run / "environment.json"
    if not rows or not environment.exists():
        raise UserError(f"{run}: holds no measured speed; --from-run needs a run with two rows in metrics.jsonl")
    num_ranks = json.loads(environment.read_text())["world"]["num_ranks"]
    shares = [row["mfu"] for row in rows if row.get("mfu") is not None]
    return Speed(
        images_per_second=median(row["images_per_second"] for row in rows) / num_ranks,
        mfu=median(shares) if shares else None,
        source=f"measured: median of {len(rows)} rows of {run}/metrics.jsonl on {num_ranks} ranks",
    )


def _require_same_network(run: Path, network: NetworkPlan) -> None:
    """Images a second say nothing of another network."""
    values = read_run_config(run)
    name, image_size = values["model"]["name"], values["data"]["transform"]["image_size"]
    if (name, image_size) != (network.name, network.image_size):
        raise UserError(
            f"{run}: has no MFU to compare by (its device's rate is not known, or the planned one's), and trained "
            f"{name} at {image_size} pixels, not {network.name} at {network.image_size}; give --mfu instead"
        )


def plan_duration(
    speed: Speed, *, num_gpus: int, num_steps: int, global_batch_size: int, question: Question
) -> Duration:
    """Return what the run takes if speed does not depend on the number of GPUs."""
    step_seconds = global_batch_size / (speed.images_per_second * num_gpus)
    hours = num_steps * step_seconds / 3600
    gpu_hours = hours * num_gpus
    price = question.price_per_gpu_hour
    return Duration(
        step_seconds=step_seconds,
        hours=hours,
        gpu_hours=gpu_hours,
        kilowatt_hours=gpu_hours * question.gpu.watts / 1000 * question.pue,
        cost=None if price is None else gpu_hours * price,
    )


def describe_gpu(gpu: Gpu) -> str:
    """Return what is known of a GPU, for people."""
    rate = "no bf16" if gpu.peak_tflops is None else f"{gpu.peak_tflops:g} TFLOP/s dense bf16"
    return f"{gpu.key} ({gpu.memory_gib:g} GiB, {rate}, {gpu.watts} W)"

"""What a run will take: from speeds that were measured on this machine, or, for GPUs, from hornet.planning."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from finetune.config import FinetuneConfig
from hornet.config import build_config, to_values, to_yaml
from hornet.durable import read_json_lines, write_json, write_text
from hornet.errors import UserError
from hornet.stages.config import StageConfig
from pretrain.config import PretrainConfig
from scaling.cells import Cell
from scaling.config import Study
from scaling.networks import NetworkFacts, key_of
from scaling.state import Standing, read_json

FILE = "speeds.json"
NUM_STEPS, NUM_TIMED = 6, 4
"""Steps of a measurement, and how many of the last count."""
EVALUATION_SHARE = 1 / 3
"""Of a training image's time that an evaluated one takes: a forward pass, without the backward one."""

StartRun = Callable[[Cell, Path, Path], int]
"""Runs a cell's stage on a config, its output to a log, to the end; returns the exit code."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Of training one network on this machine."""

    seconds_per_image: float
    start_seconds: float
    """From the command to the first step, and from the last to the end."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run will take."""

    seconds: float
    source: str
    """measured, by FLOPs (of another network that was measured), or the name of a GPU."""


def estimate(
    study: Study, cells: Sequence[Cell], networks: Mapping[str, NetworkFacts], standings: Mapping[str, Standing]
) -> dict[str, Cost]:
    """Return what each cell's run takes in all, by the cell's name; nothing of those that nothing is known of."""
    speeds = read_speeds(study)
    for cell in cells:
        summary = standings[cell.name].summary if cell.name in standings else None
        if summary is not None and _speed_key(study, cell) not in speeds:
            speeds[_speed_key(study, cell)] = _speed_of(summary)
    flops = {_speed_key(study, cell): networks[cell.name].flops_per_image for cell in cells}
    known = [(flops[key], speed) for key, speed in speeds.items() if key in flops]
    costs = {}
    for cell in cells:
        key = _speed_key(study, cell)
        if key in speeds:
            costs[cell.name] = Cost(seconds=_count_seconds(cell, speeds[key]), source="measured")
        elif known:
            near, speed = min(known, key=lambda pair: abs(pair[0] / flops[key] - 1))
            scaled = Speed(
                seconds_per_image=speed.seconds_per_image * flops[key] / near, start_seconds=speed.start_seconds
            )
            costs[cell.name] = Cost(seconds=_count_seconds(cell, scaled), source="by FLOPs")
    return costs


def measure(study: Study, cells: Sequence[Cell], *, start: StartRun) -> None:
    """Time a few steps of each network that was not timed on this machine before, in a run of its own.

    Raises UserError with the end of the log if a run fails.
    """
    speeds = read_speeds(study)
    wanted = {_speed_key(study, cell): cell for cell in cells if cell.stage == "pretrain" and cell.digest is not None}
    for key, cell in wanted.items():
        if key in speeds:
            continue
        print(f"measure      {cell.config.model.name} at {cell.config.data.transform.image_size} pixels", flush=True)
        speeds[key] = _measure(study, cell, start=start)
        write_json(study.folder / FILE, {name: asdict(speed) for name, speed in speeds.items()})


def read_speeds(study: Study) -> dict[str, Speed]:
    """Return the speeds that were measured for this study."""
    return {key: Speed(**values) for key, values in read_json(study.folder / FILE).items()}


def _measure(study: Study, cell: Cell, *, start: StartRun) -> Speed:
    folder = study.folder / "measure"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config, log = folder / "config.yaml", folder / "log"
    values = _shorten(cell, folder)
    write_text(config, to_yaml(build_config(type(cell.config), values, source=str(config))))
    started = time.monotonic()
    code = start(cell, config, log)
    seconds = time.monotonic() - started
    rows = read_json_lines(folder / "run" / "metrics.jsonl")
    if code != 0 or not rows:
        raise UserError(f"{cell.name}: {NUM_STEPS} steps to time it failed with exit code {code}; see {log}")
    times = [row["step_seconds"] for row in rows]
    shutil.rmtree(folder / "run")
    return Speed(
        seconds_per_image=median(times[-NUM_TIMED:]) / cell.config.global_batch_size,
        start_seconds=max(0.0, seconds - sum(times)),
    )


def _shorten(cell: Cell, folder: Path) -> dict[str, Any]:
    values = to_values(cell.config)
    values["run"] |= {"root": str(folder), "name": "run", "branch_from": None}
    values["schedule"] |= {"num_epochs": NUM_STEPS / cell.steps_per_epoch, "warmup_epochs": 0.0}
    values["evaluation"] = None
    values["checkpoints"]["best"] = False
    values["cadence"] |= {"log_every_steps": 1, "save_every_steps": NUM_STEPS}
    return values


def _speed_of(summary: Mapping[str, Any]) -> Speed:
    per_image = 1 / summary["images_per_second"]
    branch = summary.get("branched_from")
    own_share = 1 if branch is None else 1 - branch["step"] / summary["steps"]
    rest = summary["seconds"] - per_image * summary["images_seen"] * own_share
    return Speed(seconds_per_image=per_image, start_seconds=max(0.0, rest))


def _count_seconds(cell: Cell, speed: Speed) -> float:
    images = cell.num_own_steps * cell.config.global_batch_size
    if cell.evaluation is not None:
        every = cell.config.cadence.evaluate_every_steps
        times = 1 + (cell.num_own_steps - 1) // every if every else 1
        images_evaluated = times * cell.evaluation.num_samples * (2 if cell.config.optimizer.ema_decay else 1)
        return speed.start_seconds + speed.seconds_per_image * (images + EVALUATION_SHARE * images_evaluated)
    return speed.start_seconds + speed.seconds_per_image * images


def _speed_key(study: Study, cell: Cell) -> str:
    execution = study.config.execution
    batch = f"{cell.config.global_batch_size}/{cell.config.micro_batch_size}"
    sharing = execution.runs_per_gpu if execution.gpus else 0
    return f"{key_of(cell)}:{batch}:{execution.threads}:{sharing}:{platform.node()}"


def plan_on_gpus(cells: Sequence[Cell], *, kind: str, num_gpus: int) -> tuple[dict[str, Cost], list[str]]:
    """Return what runs take on GPUs, as launch/plan.py has it, and a sentence for each that cannot be."""
    from hornet.hardware import get_gpu
    from hornet.planning.basis import find_basis
    from hornet.planning.plan import make_plan
    from hornet.planning.question import Question

    costs: dict[str, Cost] = {}
    problems: list[str] = []
    steps: dict[tuple[object, ...], float] = {}
    for cell in cells:
        config = cell.config
        key = (key_of(cell), config.global_batch_size, config.micro_batch_size)
        if key not in steps:
            zero = config.zero if isinstance(config, PretrainConfig) else None
            question = Question(
                gpu=get_gpu(kind),
                num_gpus=num_gpus,
                num_samples=cell.train.num_samples,
                num_classes=cell.train.num_classes,
            )
            precision = config.zero.precision if isinstance(config, PretrainConfig) else _read_precision(config)
            try:
                plan = make_plan(find_basis(config, question, zero=zero, precision=precision, run=None))
            except UserError as error:
                problems.append(f"{cell.name}: {error}")
                continue
            problems += [f"{cell.name}: {problem}" for problem in plan.problems]
            steps[key] = plan.fleet.duration.step_seconds
        costs[cell.name] = Cost(seconds=steps[key] * cell.num_own_steps, source=f"{num_gpus} {kind}")
    return costs, problems


def _read_precision(config: StageConfig) -> Literal["bf16", "fp32"]:
    assert isinstance(config, FinetuneConfig)
    return config.precision

"""What a run will take: from runs that were timed on this machine, or, for GPUs, from hornet.planning."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import mean, median
from typing import Any, Literal

import numpy as np

from finetune.config import FinetuneConfig
from hornet.durable import read_json_lines, write_json
from hornet.errors import UserError
from hornet.stages.config import StageConfig
from pretrain.config import PretrainConfig
from scaling.cells import Cell
from scaling.config import Study
from scaling.ledger import Cost, read_ledger
from scaling.networks import NetworkFacts, key_of
from scaling.state import Standing, read_json

FILE = "speeds.json"
TOLD = ("images_per_second", "images_seen", "seconds")
"""What a summary must say for the speed of its run to be known."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Of one network on this machine, while as many runs are at work as the study has at a time."""

    seconds_per_image: float
    """Of training."""
    seconds_per_evaluated_image: float
    """Of one kind of weights."""
    save_seconds: float
    """That training stands still for a checkpoint."""
    fixed_seconds: float
    """All else, from the command to its exit: imports, building, what the first steps take longer, the end."""
    memory_gb: float = 0.0
    """The most that one of its processes held in the host's memory, 1e9 bytes; 0 where that was not measured."""


def estimate(
    study: Study,
    cells: Sequence[Cell],
    networks: Mapping[str, NetworkFacts],
    standings: Mapping[str, Standing],
) -> dict[str, Cost]:
    """Return what each cell's run takes in all, by the cell's name; nothing of those that nothing is known of.

    Finished runs of a network tell it first, if a runner here has seen how long they took; then what was measured.
    """
    took = {run: entry.took for run, entry in read_ledger(study).items() if entry.took is not None}
    finished: dict[str, list[Speed]] = {}
    measured = read_speeds(study)
    for cell in cells:
        summary = standings[cell.name].summary if cell.name in standings else None
        if summary is None or not all(summary.get(key) for key in TOLD):
            continue
        if cell.run in took or find_key(study, cell) not in measured:
            seconds = max(took.get(cell.run, 0.0), summary["seconds"])
            speed = read_speed(study.folder / cell.run, summary, cell=cell, seconds=seconds)
            finished.setdefault(find_key(study, cell), []).append(speed)
    speeds = measured | {key: take_medians(found) for key, found in finished.items()}
    flops = {find_key(study, cell): networks[cell.name].flops_per_image for cell in cells}
    families = {find_key(study, cell): cell.family for cell in cells}
    costs = {}
    for cell in cells:
        key = find_key(study, cell)
        known = [each for each in speeds if each in flops]
        if key in speeds:
            costs[cell.name] = Cost(seconds=count_seconds(cell, speeds[key]), source="measured")
        elif known:
            alike = [each for each in known if families[each] == cell.family] or known
            speed = guess_speed([(flops[each], speeds[each]) for each in alike], flops[key])
            costs[cell.name] = Cost(seconds=count_seconds(cell, speed), source="by FLOPs")
    return costs


def guess_speed(known: Sequence[tuple[float, Speed]], flops: float) -> Speed:
    """Return the speed of a network from those of others, given with their FLOPs of an image.

    Times of an image grow by a line in FLOPs, neither of whose parts is below 0: small networks wait for Python. From a
    single other network they are in proportion.
    """
    from scipy.optimize import nnls  # a second to import, for which a wrong key need not wait

    shares = [each / flops for each, _ in known]

    def guess(times: Sequence[float]) -> float:
        if len(set(shares)) == 1 or min(times) == 0:
            return median(time / share for time, share in zip(times, shares, strict=True))
        design = np.array([(1 / time, share / time) for time, share in zip(times, shares, strict=True)])
        return float(nnls(design, np.ones(len(known)))[0].sum())

    return replace(
        take_medians([speed for _, speed in known]),
        seconds_per_image=guess([speed.seconds_per_image for _, speed in known]),
        seconds_per_evaluated_image=guess([speed.seconds_per_evaluated_image for _, speed in known]),
    )


def count_seconds(cell: Cell, speed: Speed) -> float:
    """Return what a cell's run takes: what is fixed, its steps, its evaluations, its checkpoints."""
    cadence = cell.config.cadence
    seconds = speed.fixed_seconds + speed.seconds_per_image * cell.num_own_steps * cell.config.global_batch_size
    seconds += speed.save_seconds * _count_times(cell.num_own_steps, cadence.save_every_steps)
    if cell.evaluation is not None:
        times = _count_times(cell.num_own_steps, cadence.evaluate_every_steps)
        kinds = 2 if cell.config.optimizer.ema_decay else 1
        seconds += speed.seconds_per_evaluated_image * times * kinds * cell.evaluation.num_samples
    return seconds


def read_speed(run: Path, summary: Mapping[str, Any], *, cell: Cell, seconds: float) -> Speed:
    """Return the speed that a finished run of a cell had, whose processes took `seconds` in all.

    What its events.jsonl does not tell counts as fixed.
    """
    per_image = 1 / summary["images_per_second"]
    branch = summary.get("branched_from")
    own_share = 1 if branch is None else 1 - branch["step"] / summary["steps"]
    still = {"save": [0.0], "evaluate": [0.0]}
    for event in read_json_lines(run / "events.jsonl"):
        if event.get("event") in still:
            still[event["event"]].append(float(event["seconds"]))
    rest = seconds - per_image * summary["images_seen"] * own_share - sum(still["save"]) - sum(still["evaluate"])
    num_evaluated = 0 if cell.evaluation is None else cell.evaluation.num_samples
    return Speed(
        seconds_per_image=per_image,
        seconds_per_evaluated_image=mean(still["evaluate"][1:] or [0.0]) / max(1, num_evaluated),
        save_seconds=mean(still["save"][1:] or [0.0]),
        fixed_seconds=max(0.0, rest),
    )


def read_speeds(study: Study) -> dict[str, Speed]:
    """Return the speeds that were measured for this study, by key."""
    names = {each.name for each in fields(Speed)}
    found = read_json(study.folder / FILE).items()  # what an earlier release measured holds less, and is measured again
    return {key: Speed(**values) for key, values in found if isinstance(values, dict) and set(values) == names}


def take_medians(speeds: Sequence[Speed]) -> Speed:
    """Return the median of each number."""
    return Speed(**{each.name: median(getattr(speed, each.name) for speed in speeds) for each in fields(Speed)})


def write_speeds(study: Study, speeds: Mapping[str, Speed]) -> None:
    """Write all speeds that were measured for this study."""
    study.folder.mkdir(parents=True, exist_ok=True)
    write_json(study.folder / FILE, {key: asdict(speed) for key, speed in speeds.items()})


def find_key(study: Study, cell: Cell) -> str:
    """Return what a run's speed depends on: network, batch, threads, GPUs, runs at a time, machine."""
    execution = study.config.execution
    place = f"{execution.threads}:{execution.gpus}:{execution.num_slots}:{platform.node()}"
    return f"{describe_work(cell)}:{place}"


def describe_work(cell: Cell) -> str:
    """Return the part of a key that is the same on all machines: network and batch."""
    return f"{key_of(cell)}:{cell.config.global_batch_size}/{cell.config.micro_batch_size}"


def _count_times(num_steps: int, every: int | None) -> int:
    """Return how often a thing happens that is done every so many steps and after the last."""
    return 1 + (num_steps - 1) // every if every else 1


def plan_on_gpus(cells: Sequence[Cell], *, kind: str, num_gpus: int) -> tuple[dict[str, Cost], list[str]]:
    """Return what runs take on GPUs, as launch/plan.py has it, and a sentence for each that cannot be."""
    from hornet.hardware import get_gpu
    from hornet.planning.basis import find_basis
    from hornet.planning.plan import make_plan
    from hornet.planning.question import Question
    from hornet.planning.samples import find_samples

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
                samples = find_samples(config.data, question)
                plan = make_plan(find_basis(config, question, samples, zero=zero, precision=precision, run=None))
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

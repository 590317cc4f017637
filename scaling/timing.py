"""Speeds of a study's networks on this machine: a few steps of each, as many copies at a time as the study has runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hornet.config import build_config, to_values, to_yaml
from hornet.durable import write_text
from hornet.errors import UserError
from scaling.cells import Cell
from scaling.config import Study
from scaling.costs import Speed, describe_work, find_key, read_speed, read_speeds, take_medians, write_speeds
from scaling.pool import Ended
from scaling.state import read_json

NUM_STEPS = 8
"""Of a copy; the median counts, so that the first ones, which take longer, are part of what is fixed."""

RunTogether = Callable[[Study, Cell, Sequence[Path]], list[Ended]]
"""Runs a cell's stage on all these configs at the same time, to the end."""


def measure(study: Study, cells: Sequence[Cell], *, run_together: RunTogether) -> None:
    """Time a few steps, an evaluation and a checkpoint of each network that was not timed on this machine before.

    Raises UserError with the log if a run fails.
    """
    speeds = read_speeds(study)
    wanted = {find_key(study, cell): cell for cell in cells if cell.stage == "pretrain" and cell.digest is not None}
    for key, cell in wanted.items():
        if key in speeds:
            continue
        print(f"measure      {cell.config.model.name} at {cell.config.data.transform.image_size} pixels", flush=True)
        speeds[key] = _measure(study, cell, run_together=run_together)
        write_speeds(study, speeds)


def find_memory_problems(study: Study, cells: Sequence[Cell]) -> Iterator[str]:
    """Yield a sentence for each network whose runs were seen to hold more memory than the study says of one."""
    said = study.config.execution.run_memory_gb
    speeds = read_speeds(study)
    for what, cell in {describe_work(cell): cell for cell in cells}.items():
        held = max((speed.memory_gb for key, speed in speeds.items() if key.startswith(f"{what}:")), default=0.0)
        if held > said:
            yield (
                f"execution.run_memory_gb: is {said:g}, but a run of {cell.config.model.name} was seen to hold "
                f"{held:.2f} GB; say at least that, so that no more runs start than the memory has room for"
            )


def require_memory(study: Study, cells: Sequence[Cell]) -> None:
    """Raise UserError with all of find_memory_problems."""
    problems = list(find_memory_problems(study, cells))
    if problems:
        raise UserError("\n".join(problems))


def _measure(study: Study, cell: Cell, *, run_together: RunTogether) -> Speed:
    folder = study.folder / "measure"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    configs = [folder / f"copy_{number}.yaml" for number in range(study.config.execution.num_slots)]
    for config in configs:
        values = _shorten(cell, folder, name=config.stem)
        write_text(config, to_yaml(build_config(type(cell.config), values, source=str(config))))
    speeds, all_ended = [], run_together(study, cell, configs)
    for config, ended in zip(configs, all_ended, strict=True):
        summary = read_json(folder / config.stem / "summary.json")
        if ended.code != 0 or not summary:
            log = config.with_suffix(".log")
            raise UserError(f"{cell.name}: {NUM_STEPS} steps to time it failed with exit code {ended.code}; see {log}")
        speeds.append(read_speed(folder / config.stem, summary, cell=cell, seconds=ended.seconds))
    shutil.rmtree(folder)
    return replace(take_medians(speeds), memory_gb=max(ended.memory_gb for ended in all_ended))


def _shorten(cell: Cell, folder: Path, *, name: str) -> dict[str, Any]:
    values = to_values(cell.config)
    values["run"] |= {"root": str(folder), "name": name, "branch_from": None}
    values["schedule"] |= {"num_epochs": NUM_STEPS / cell.steps_per_epoch, "warmup_epochs": 0.0}
    values["checkpoints"]["best"] = False
    values["cadence"] |= {"log_every_steps": 1, "save_every_steps": NUM_STEPS, "evaluate_every_steps": None}
    return values

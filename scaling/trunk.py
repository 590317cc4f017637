"""Runs of several lengths that share their beginning: the longest is the trunk, the others are its branches.

Not here: why a branch is the run of its length to the bit, and what is refused (hornet/training/branch.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from hornet.errors import UserError
from hornet.quantities import list_divisors
from hornet.training.schedule import plan_schedule
from scaling.cells import Cell

MOST_KEPT = 16
"""Checkpoints that a trunk keeps for its branches, at most; a branch makes again what lies between the last of them and
its cooldown."""


def plant(cells: Sequence[Cell]) -> list[Cell]:
    """Return a group's cells, of those that differ in length alone the longest as the trunk of the others.

    Raises UserError if a schedule depends on the length from its start on.
    """
    for cell in cells:
        if cell.config.schedule.shape != "wsd":
            raise UserError("trunk: needs schedule.shape=wsd, in the base or in overrides")
    planted: list[Cell] = []
    for cell in cells:
        alike = [other for other in cells if _identify(other) == _identify(cell)]
        trunk = max(alike, key=lambda other: other.num_steps)
        every = _choose_cadence(trunk, [other for other in alike if other is not trunk])
        if cell is trunk:
            planted.append(_keep_checkpoints(trunk, every))
        else:
            step = _count_stable(cell) // every * every
            planted.append(replace(cell, trunk=trunk.name if step else None, branch_step=step))
    return planted


def graft(cells: Iterable[Cell], folder: Path) -> list[Cell]:
    """Return the cells, branches with the run directory of their trunk in their config."""
    runs = {cell.name: cell.run for cell in cells}
    grafted = []
    for cell in cells:
        if cell.trunk is not None:
            run = replace(cell.config.run, branch_from=str(folder / runs[cell.trunk]))
            cell = replace(cell, config=replace(cell.config, run=run))
        grafted.append(cell)
    return grafted


def list_trunks(cells: Iterable[Cell]) -> set[str]:
    """Return the names of the cells that others branch from."""
    return {cell.trunk for cell in cells if cell.trunk is not None}


def _identify(cell: Cell) -> tuple[object, ...]:
    return cell.family, cell.size, cell.fraction, cell.seed


def _count_stable(cell: Cell) -> int:
    stable = plan_schedule(cell.config.schedule, steps_per_epoch=cell.steps_per_epoch).num_stable_steps
    assert stable is not None
    return stable


def _choose_cadence(trunk: Cell, branches: Sequence[Cell]) -> int:
    """Return the steps between checkpoints that lie where branches begin, or, where those are too many, near."""
    exact = math.gcd(*(_count_stable(cell) for cell in branches))
    return max(exact, -(-trunk.num_steps // MOST_KEPT), 1)


def _keep_checkpoints(trunk: Cell, every: int) -> Cell:
    config = trunk.config
    wanted = config.cadence.save_every_steps
    near = [steps for steps in list_divisors(every) if wanted / 2 <= steps <= wanted]
    save_every = max(near, default=every)
    return replace(
        trunk,
        config=replace(
            config,
            cadence=replace(config.cadence, save_every_steps=save_every),
            checkpoints=replace(config.checkpoints, every_steps=every),
        ),
    )

"""In which order runs tell most, and when the last of them ends.

Pilots first, corners of the grid, its inside, further seeds, then what needs those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from scaling.cells import Cell
from scaling.trunk import list_trunks


def sort_runs(cells: Sequence[Cell], *, seconds: Mapping[str, float]) -> list[Cell]:
    """Return the cells in the order in which they are to run.

    Pilots first. Then the smallest and largest of each list with its first seed, of all families: a law can be fitted
    once they are there. Then the inside with that seed, then the corners' other seeds, which tell the noise, then all
    others. Within these, what takes least comes first, and without costs what the study names first. A trunk comes
    before the first of its branches. Then what is foretold, and finetunings, which fill the slots while the last run
    before it ends.
    """
    corners = _find_corners([cell for cell in cells if cell.stage == "pretrain" and not cell.is_held_out])
    first = {cell.group: cell.seed for cell in reversed(cells)}

    def find_stage(cell: Cell) -> int:
        is_first, is_corner = cell.seed == first[cell.group], cell.name in corners
        stage = 0 if is_corner and is_first else 1 if is_first else 2 if is_corner else 3
        stage = -1 if cell.tried is not None else stage
        return 4 if cell.is_held_out else 5 if cell.stage == "finetune" else stage

    trunks = list_trunks(cells)

    def rank(cell: Cell) -> tuple[int, bool, float]:
        stage = min(find_stage(other) for other in (cell, *(each for each in cells if each.trunk == cell.name)))
        return stage, cell.name not in trunks, seconds.get(cell.name, 0.0)

    return sorted(cells, key=rank)


def find_startable(waiting: Iterable[Cell], running: Iterable[Cell], *, runs: Mapping[str, str]) -> list[Cell]:
    """Return those of the waiting cells that need nothing which is waiting or running itself.

    What is held out waits for all other pretrainings. `runs` has the run of each of the study's cells, by its name.
    """
    waiting = list(waiting)
    unfinished = [*waiting, *running]
    names = {cell.run for cell in unfinished}
    is_learning = any(cell.stage == "pretrain" and not cell.is_held_out for cell in unfinished)
    return [
        cell
        for cell in waiting
        if names.isdisjoint(runs[name] for name in cell.waits_for.values()) and not (cell.is_held_out and is_learning)
    ]


def foresee_end(
    waiting: Sequence[Cell],
    *,
    seconds: Mapping[str, float],
    slots: int,
    runs: Mapping[str, str],
    running: Sequence[tuple[float, Cell]] = (),
) -> float:
    """Return the seconds until all have ended, if each starts in its turn as soon as there is room and it may.

    `running` are cells that are at work already, with the seconds that each still takes.
    """
    left, ends, now = list(waiting), list(running), 0.0
    while left or ends:
        able = find_startable(left, [cell for _, cell in ends], runs=runs) if len(ends) < slots else []
        for cell in able[: slots - len(ends)]:
            left.remove(cell)
            ends.append((now + seconds[cell.name], cell))
        ended = min(ends, key=lambda end: end[0])
        ends.remove(ended)
        now = ended[0]
    return now


def keep_within(
    cells: Sequence[Cell], *, seconds: Mapping[str, float], budget: float, slots: int, runs: Mapping[str, str]
) -> list[Cell]:
    """Return the longest beginning of the order that ends within `budget` seconds on `slots` runs at a time.

    A finetuning whose parent is left out, or a branch whose trunk is, is left out too.
    """
    low, high = 0, len(cells)
    while low < high:
        middle = (low + high + 1) // 2
        fits = foresee_end(cells[:middle], seconds=seconds, slots=slots, runs=runs) <= budget
        low, high = (middle, high) if fits else (low, middle - 1)
    left_out = {cell.run for cell in cells[low:]}
    return [cell for cell in cells[:low] if left_out.isdisjoint(runs[name] for name in cell.waits_for.values())]


def name_runs(cells: Iterable[Cell]) -> dict[str, str]:
    """Return the run of each cell, by the cell's name."""
    return {cell.name: cell.run for cell in cells}


def _find_corners(cells: Sequence[Cell]) -> set[str]:
    """Return the names of cells whose size, share and length are each the least or the most of their group."""
    corners = set()
    for cell in cells:
        mine = [other for other in cells if other.group == cell.group]
        sizes = [other.size for other in mine]
        fractions = [other.fraction for other in mine]
        lengths = [other.images_seen for other in mine if (other.size, other.fraction) == (cell.size, cell.fraction)]
        ends = ({sizes[0], sizes[-1]}, {min(fractions), max(fractions)}, {min(lengths), max(lengths)})
        if cell.size in ends[0] and cell.fraction in ends[1] and cell.images_seen in ends[2]:
            corners.add(cell.name)
    return corners

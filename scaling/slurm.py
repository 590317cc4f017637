"""A study as job arrays: launch/slurm/study.sbatch on lists of runs, each behind the parent or trunk that it needs."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hornet.durable import write_json, write_text
from hornet.errors import UserError
from scaling.analysis import read_predictions
from scaling.cells import Cell
from scaling.config import Study
from scaling.pool import write_cell
from scaling.state import read_json

ROOT = Path(__file__).resolve().parents[1]
SUBMITTED = "submitted.json"
NO_RUN = "no-run -"
"""A line of a list that no element of the array asks for."""


def submit(study: Study, cells: Sequence[Cell], runs: Sequence[Cell], *, options: Sequence[str]) -> str:
    """Submit what is not finished and not in the queue; return what was done, in lines.

    Raises UserError if there is no SLURM here, or if sbatch refuses.
    """
    study.folder.mkdir(parents=True, exist_ok=True)
    waiting = _list_waiting(study, runs)
    started = [cell for cell in runs if cell.run not in waiting]
    held_back = [cell for cell in started if cell.is_held_out and not _is_foretold(study, cell)]
    queue = _Queue(study=study, cells=cells, pending={cell.run for cell in runs}, options=options)
    ready = [cell for cell in started if cell not in held_back]
    queue.submit([cell for cell in ready if cell.stage == "pretrain" and cell.trunk is None], "pretrainings")
    for kind, names in (("trunk", "branches"), ("parent", "finetunings")):
        mine = [cell for cell in ready if kind in cell.waits_for]
        for group in dict.fromkeys(cell.group for cell in mine):
            queue.submit_behind([cell for cell in mine if cell.group == group], kind, f"{names} of {group}")
    lines = queue.lines
    if waiting:
        lines.append(f"{len(waiting)} runs are in the queue already")
    if held_back:
        lines.append(f"{len(held_back)} runs wait to be foretold: `fit` once the others are finished, then this again")
    return "\n".join(lines) or "nothing is left to submit"


@dataclass(kw_only=True)
class _Queue:
    """Arrays that were submitted, one behind the other."""

    study: Study
    cells: Sequence[Cell]
    """All of the study's, to look where parents and trunks are."""
    pending: set[str]
    """Runs that are not finished."""
    options: Sequence[str]
    """Words that every array's sbatch is given too, such as --partition."""
    placed: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Job and element of each run."""
    lines: list[str] = field(default_factory=list)
    """For people: a line for each array that was submitted, and for runs that must wait."""

    def submit(self, cells: Sequence[Cell], what: str) -> None:
        """Submit runs that wait for nothing, as one array."""
        if cells:
            job = self._call(dict(enumerate(cells, start=1)), self.options)
            self.lines.append(f"job {job}: {len(cells)} {what}")

    def submit_behind(self, cells: Sequence[Cell], kind: str, what: str) -> None:
        """Submit runs that need another each, its trunk or parent: element i waits for element i of that one's array.

        So those of one trunk are in arrays of their own.
        """
        runs = {cell.name: cell.run for cell in self.cells}
        needed = {cell.run: runs[cell.waits_for[kind]] for cell in cells}
        left = [cell for cell in cells if needed[cell.run] in self.placed]
        while left:
            job = self.placed[needed[left[0].run]][0]
            elements: dict[int, Cell] = {}
            for cell in left:
                place = self.placed[needed[cell.run]]
                if place[0] == job:
                    elements.setdefault(place[1], cell)
            dependency = [f"--dependency=aftercorr:{job}", "--kill-on-invalid-dep=yes"]
            after = self._call(elements, [*self.options, *dependency])
            self.lines.append(f"job {after}: {len(elements)} {what}, each after its {kind} in job {job}")
            left = [cell for cell in left if cell.run not in self.placed]
        now = [cell for cell in cells if needed[cell.run] not in self.pending]
        self.submit(now, f"{what}, whose {kind}s are finished")
        late = [cell for cell in cells if cell.run not in self.placed]
        if late:
            self.lines.append(f"{len(late)} {what} wait for {kind}s that were submitted before: this again, then")

    def _call(self, elements: Mapping[int, Cell], options: Sequence[str]) -> str:
        lines = [NO_RUN] * max(elements)
        for number, cell in elements.items():
            lines[number - 1] = _format_line(self.study, cell)
        job = _call_sbatch(self.study, lines, sorted(elements), options)
        self.placed |= {cell.run: (job, number) for number, cell in elements.items()}
        path = self.study.folder / SUBMITTED  # at once: sbatch may refuse the next one
        write_json(path, read_json(path) | {cell.run: job for cell in elements.values()})
        return job


def _list_waiting(study: Study, runs: Sequence[Cell]) -> set[str]:
    """Return the runs whose job, as it was submitted, is still known to SLURM."""
    jobs = read_json(study.folder / SUBMITTED)
    wanted = {jobs[cell.run] for cell in runs if cell.run in jobs}
    if not wanted:
        return set()
    alive = set(_call(["squeue", "--noheader", "--format", "%F"]).split())
    return {cell.run for cell in runs if jobs.get(cell.run) in alive}


def _is_foretold(study: Study, cell: Cell) -> bool:
    return cell.name.rpartition("_s")[0] in {each["name"] for each in read_predictions(study)}


def _format_line(study: Study, cell: Cell) -> str:
    return f"{cell.stage} {write_cell(study, cell).absolute()}"


def _call_sbatch(study: Study, lines: Sequence[str], elements: Sequence[int], options: Sequence[str]) -> str:
    """Submit these elements of a list, which is never written to again: a requeued job reads it once more."""
    text = "\n".join(lines) + "\n"
    path = study.folder / "lists" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    array = ",".join(map(str, elements)) if list(elements) != list(range(1, len(lines) + 1)) else f"1-{len(lines)}"
    script = ROOT / "launch" / "slurm" / "study.sbatch"
    if not script.exists():
        raise UserError("--slurm: submits launch/slurm/study.sbatch, so it runs in a checkout")
    words = ["env", f"HORNET_ROOT={ROOT}", "sbatch", "--parsable", f"--array={array}", *options]
    return _call([*words, str(script), str(path.absolute())]).strip().partition(";")[0]


def _call(words: Sequence[str]) -> str:
    program = next(word for word in words if word in ("sbatch", "squeue"))
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"--slurm: {program} cannot be started ({error.strerror}); is this a SLURM cluster?") from error
    if done.returncode == 127:
        raise UserError(f"--slurm: {program} was not found; is this a SLURM cluster?")
    if done.returncode != 0:
        raise UserError(f"--slurm: {program} refused: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout

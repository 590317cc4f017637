"""A study as job arrays: launch/slurm/study.sbatch on lists of runs, finetunings each behind its own parent."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hornet.durable import write_json, write_text
from hornet.errors import UserError
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
    pretrainings = [cell for cell in started if cell.stage == "pretrain" and not cell.is_held_out]
    held_out = [cell for cell in started if cell.is_held_out and _is_foretold(study, cell)]
    lines, jobs = [], dict(read_json(study.folder / SUBMITTED))
    first = [*pretrainings, *held_out]
    job = None
    if first:
        job = _call_sbatch(
            study, [_format_line(study, cell) for cell in first], list(range(1, len(first) + 1)), options
        )
        jobs |= {cell.run: job for cell in first}
        lines.append(f"job {job}: {len(first)} pretrainings")
    numbers = {cell.run: number for number, cell in enumerate(first, start=1)}
    owners = {cell.name: cell.run for cell in cells}
    finetunings = [cell for cell in started if cell.stage == "finetune"]
    pending = {cell.run for cell in runs}
    for group in dict.fromkeys(cell.group for cell in finetunings):
        mine = [(cell, owners[cell.parent or ""]) for cell in finetunings if cell.group == group]
        behind = {numbers[parent]: cell for cell, parent in mine if parent in numbers}
        now = [cell for cell, parent in mine if parent not in pending]
        if behind:  # element i waits for element i of the parents' array
            texts = [NO_RUN] * max(behind)
            for number, cell in behind.items():
                texts[number - 1] = _format_line(study, cell)
            dependency = [f"--dependency=aftercorr:{job}", "--kill-on-invalid-dep=yes"]
            after = _call_sbatch(study, texts, sorted(behind), [*options, *dependency])
            jobs |= {cell.run: after for cell in behind.values()}
            lines.append(f"job {after}: {len(behind)} finetunings of {group}, each after its parent in job {job}")
        if now:
            texts = [_format_line(study, cell) for cell in now]
            after = _call_sbatch(study, texts, list(range(1, len(now) + 1)), options)
            jobs |= {cell.run: after for cell in now}
            lines.append(f"job {after}: {len(now)} finetunings of {group}, whose parents are finished")
        late = len(mine) - len(behind) - len(now)
        if late:
            lines.append(f"{late} finetunings of {group} wait for parents that were submitted before: this again, then")
    write_json(study.folder / SUBMITTED, jobs)
    left = [cell for cell in started if cell.is_held_out and cell not in held_out]
    if waiting:
        lines.append(f"{len(waiting)} runs are in the queue already")
    if left:
        lines.append(f"{len(left)} runs wait to be foretold: `fit` once the others are finished, then this again")
    return "\n".join(lines) or "nothing is left to submit"


def _list_waiting(study: Study, runs: Sequence[Cell]) -> set[str]:
    """Return the runs whose job, as it was submitted, is still known to SLURM."""
    jobs = read_json(study.folder / SUBMITTED)
    wanted = {jobs[cell.run] for cell in runs if cell.run in jobs}
    if not wanted:
        return set()
    alive = set(_call(["squeue", "--noheader", "--format", "%F"]).split())
    return {cell.run for cell in runs if jobs.get(cell.run) in alive}


def _is_foretold(study: Study, cell: Cell) -> bool:
    predictions = read_json(study.folder / "predictions.json").get("predictions") or []
    return cell.name.rpartition("_s")[0] in {each["name"] for each in predictions}


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

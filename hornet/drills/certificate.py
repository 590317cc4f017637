"""The attempts of a run that launch/verify_resume.py starts, kills and compares."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hornet.drills.launched import LaunchedRun, Script
from hornet.durable import read_json_lines
from hornet.errors import UserError
from hornet.training.checkpoints.checkpoint import find_newest

OTHER_RANKS_TOLERANCE = 2e-2
"""Largest relative difference of a loss on another number of ranks: sums are taken in another order, in bf16."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One run, and what happens to it."""

    name: str
    """Its run.name."""
    num_ranks: int
    """Ranks that it starts with."""
    kill_after: int | None
    """Step after which all ranks are killed; None to leave it in peace."""
    resumed_ranks: int | None = None
    """Ranks that it goes on with after the kill; None for as many as before."""

    def run(self, script: Script, config: Path, *, folder: Path, launcher: str) -> None:
        """Run it to its end, in as many attempts as it takes.

        Raises UserError if an attempt ends otherwise than it should, naming the log.
        """
        log = folder / f"{self.name}.log"
        arguments = [*script.words, "--config", str(config), f"run.name={self.name}"]
        start = functools.partial(LaunchedRun.start, launcher, path=folder / self.name, log=log, arguments=arguments)
        num_ranks = self.num_ranks
        if self.kill_after is not None:
            _say(f"{self.name}: {self.num_ranks} ranks, to be killed after step {self.kill_after}")
            run = start(num_ranks=num_ranks)
            run.wait_for_steps(self.kill_after)
            run.kill()
            if (folder / self.name / "summary.json").exists():
                raise UserError(f"{self.name}: was finished before it could be killed; give more --steps")
            num_ranks = self.resumed_ranks or num_ranks
        _say(f"{self.name}: {num_ranks} ranks, to the end")
        code = start(num_ranks=num_ranks).process.wait()
        if code != 0:
            raise UserError(f"{self.name}: ended with {code}; see {log}")


def compare(undisturbed: Path, other: Path, attempt: Attempt) -> dict[str, Any]:
    """Return what differs between two finished runs, as JSON values."""
    rows = [read_json_lines(run / "metrics.jsonl") for run in (undisturbed, other)]
    losses, norms = ([[row[key] for row in part] for part in rows] for key in ("loss", "grad_norm"))
    found: dict[str, Any] = {
        "run": attempt.name,
        "ranks": [attempt.num_ranks, attempt.resumed_ranks or attempt.num_ranks],
        "steps": [len(part) for part in rows],
        "are_digests_equal": [row["batch_digest"] for row in rows[0]] == [row["batch_digest"] for row in rows[1]],
        "loss_difference": _largest_difference(*losses),
        "grad_norm_difference": _largest_difference(*norms),
    }
    states = [_read_state(run) for run in (undisturbed, other)]
    if states[0].keys() != states[1].keys():
        raise UserError(f"{other}: its last checkpoint holds other parameters than that of {undisturbed}")
    found["are_weights_equal"] = all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    numbers = [name for name in states[0] if states[0][name].is_floating_point()]  # no counters: ranks count their own
    found["weight_difference"] = max(float((states[0][name] - states[1][name]).abs().max()) for name in numbers)
    found["num_elements"] = sum(tensor.numel() for tensor in states[0].values())
    is_exact = found["loss_difference"] == 0 and found["are_weights_equal"]
    is_close = found["loss_difference"] <= OTHER_RANKS_TOLERANCE
    found["is_the_same_run"] = found["are_digests_equal"] and (is_exact if attempt.resumed_ranks is None else is_close)
    return found


def format_table(rows: list[dict[str, Any]], *, num_steps: int) -> str:
    """Return the certificate for people."""
    lines = [f"{'':45}" + _cells(rows, _name)]
    batches = f"batches of all {num_steps} steps"
    lines.append(f"{batches:45}" + _cells(rows, lambda row: "equal" if row["are_digests_equal"] else "DIFFERENT"))
    for key, title in (("loss_difference", "losses"), ("grad_norm_difference", "gradient norms")):
        lines.append(f"{title:45}" + _cells(rows, lambda row, key=key: _within(row[key], "relative")))
    title = f"final weights and state ({rows[0]['num_elements'] / 1e6:.1f} M numbers)"
    lines.append(f"{title:45}" + _cells(rows, _describe_weights))
    verdicts = _cells(rows, lambda row: "the same run" if row["is_the_same_run"] else "NOT THE SAME RUN")
    return "\n".join([*lines, f"{'verdict':45}{verdicts}"])


def count_devices() -> int:
    """Return the ranks that this machine is used with: its GPUs, or 2 on a CPU."""
    return torch.cuda.device_count() or 2


def _read_state(run: Path) -> dict[str, Tensor]:
    """Everything a checkpoint holds for each parameter, by `kind/name`."""
    checkpoint = find_newest(run / "checkpoints")
    if checkpoint is None:
        raise UserError(f"{run}: has no checkpoint")
    if checkpoint.identity["engine"] != "deepspeed":
        from hornet.training.engines.accelerate import read_state

        state = read_state(checkpoint.folder)
        moments = {
            f"{kind}/{parameter}": tensor
            for parameter, kinds in state["optimizer"]["state"].items()
            for kind, tensor in kinds.items()
        }
        return {name: x for name, x in (state["model"] | moments).items() if isinstance(x, Tensor)}
    from hornet.training.engines.deepspeed_files import WEIGHT, ZeroCheckpoint

    files = ZeroCheckpoint(checkpoint.folder)
    kinds = (WEIGHT, *files.kinds)
    return {f"{kind}/{name}": tensor for kind in kinds for name, tensor in files.read_all(kind).items()}


def _largest_difference(one: list[float | None], other: list[float | None]) -> float:
    """Return the largest relative difference; infinite if the lists cannot be compared."""
    largest = 0.0
    for a, b in itertools.zip_longest(one, other):
        if a != b:
            largest = max(largest, math.inf if a is None or b is None else abs(a - b) / max(abs(a), 1e-12))
    return largest


def _cells(rows: list[dict[str, Any]], describe: Any) -> str:
    return "".join(f"{describe(row):>26}" for row in rows)


def _name(row: dict[str, Any]) -> str:
    before, after = row["ranks"]
    return f"{before} ranks" if before == after else f"{before} -> {after} ranks"


def _describe_weights(row: dict[str, Any]) -> str:
    return "equal" if row["are_weights_equal"] else _within(row["weight_difference"], "absolute")


def _within(difference: float, kind: str) -> str:
    return "equal" if difference == 0 else f"within {difference:.1e} {kind}"


def _say(line: str) -> None:
    print(line, flush=True)

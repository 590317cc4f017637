"""What the runs of pilots say: the best of what was tried, of each family and size, in words for `per`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from hornet.errors import UserError
from scaling.cells import name_kind
from scaling.results import Result

Trials = dict[str, list[Result]]
"""The runs of each setting that was tried, in the study's order."""


def describe_pilot(results: Sequence[Result], tried: Mapping[str, str], *, metric: str) -> str:
    """Return a table, what is missing or at an end of its list, and the block for `per`, in lines.

    `tried` has the `key=value` of each run, by its name. Raises UserError if the study has no pilot.
    """
    if not results:
        raise UserError("the study has no pilot; give a group `pilot: [schedule.peak_lr=1e-3, ...]` (docs/scaling.md)")
    lines: list[str] = []
    block: dict[str, list[str]] = {}
    kinds: dict[tuple[str, str], Trials] = {}
    for run in results:
        trials = kinds.setdefault((run.group, name_kind(run.family, run.size)), {})
        trials.setdefault(tried[run.name], []).append(run)
    for (group, kind), trials in kinds.items():
        lines += [f"{group}/{kind}, {metric}:", *(f"  {text}" for text in _describe_trials(trials))]
        best = _find_best(trials)
        if best is not None:
            block.setdefault(kind, []).append(best)
            lines += _find_remarks(trials, best)
    if block:
        lines += ["", "per:  # found by a pilot", *(f"  {kind}: [{', '.join(best)}]" for kind, best in block.items())]
    return "\n".join(lines)


def _describe_trials(trials: Trials) -> list[str]:
    lines = []
    for text, runs in trials.items():
        values = [run.value for run in runs if run.value is not None]
        lost = [
            f"{run.name} is {run.state}" + (f": {run.reason}" if run.reason else "") for run in runs if not run.value
        ]
        shown = f"{mean(values):.4g} of {len(values)} runs" if values else "no result"
        lines.append("; ".join([f"{text:28} {shown}", *lost]))
    return lines


def _find_best(trials: Trials) -> str | None:
    """Return the setting with the least mean among those whose runs all have a result; None without such."""
    whole = {
        text: mean(run.value for run in runs if run.value is not None)
        for text, runs in trials.items()
        if all(run.value is not None for run in runs)
    }
    return min(whole, key=lambda text: whole[text]) if whole else None


def _find_remarks(trials: Trials, best: str) -> list[str]:
    names = list(trials)
    if len(names) > 1 and best in (names[0], names[-1]):
        return [f"  {best} is at an end of the list: the best may lie beyond it"]
    return []

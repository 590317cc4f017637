"""The top of the page: how the run stands, in one look."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from hornet.pages.html import draw_numbers, escape
from hornet.pages.run.attempts import Life
from hornet.pages.run.files import Row, RunFiles, column, number, present
from hornet.pages.run.timing import find_step_seconds
from hornet.quantities import format_seconds, format_time, shorten

SILENT_SECONDS = 60
"""A job touches owner.json every 10 s: one that has been silent for so long is hardly alive."""
STATES = ("starting", "running", "stopped", "finished", "failed")


def draw_headline(files: RunFiles, lives: Sequence[Life], *, now: float) -> str:
    """Draw name, state and the large numbers; `now` is in unix seconds."""
    state = find_state(files)
    silence = now - find_last_sign(files, lives)
    is_silent = state in ("starting", "running") and silence > SILENT_SECONDS
    shown = (
        f'<span class="state {"silent" if is_silent else state}">{state}{", but silent" if is_silent else ""}</span>'
    )
    command = files.environment.get("command")
    if isinstance(command, list):
        text = " ".join(str(word) for word in command)
        shown_command = f'<p class="soft"><code>{escape(text)}</code></p>'
    else:
        shown_command = ""
    written = format_time(now)
    return (
        f"<h1>{escape(files.path.name)} {shown}</h1>{shown_command}"
        f'<p class="soft">{escape(str(files.path))}; as of {written} UTC</p>'
        f"{_explain(files, state, silence=silence if is_silent else None)}"
        f"{draw_numbers(list_numbers(files, lives, state=state))}"
    )


def find_state(files: RunFiles) -> str:
    """Return the run's state: that of status.json, else of the last event that is one."""
    said = [files.status.get("state"), *(event.get("event") for event in reversed(files.events))]
    return next((state for state in said if state in STATES), "unknown")


def find_last_sign(files: RunFiles, lives: Sequence[Life]) -> float:
    """Return when anything was last heard of the run, in unix seconds; 0 if never."""
    signs = [life.last_sign for life in lives] + present([files.beat, *column(files.metrics[-1:], "time")])
    with suppress(ValueError, OverflowError, OSError):
        signs.append(datetime.fromisoformat(str(files.status.get("time"))).timestamp())
    return max(signs, default=0.0)


def find_last_step(files: RunFiles) -> int:
    """Return the last step the run is known to have done, in what it still counts."""
    known = present([*column(files.metrics[-1:], "step"), number(files.status.get("step"))])
    return int(max(known, default=0.0))


def find_num_steps(files: RunFiles) -> int | None:
    """Return how many steps the run is to have; None if nobody said."""
    told = column([files.summary], "steps") + column([files.status, *reversed(files.events)], "num_steps")
    return next((int(steps) for steps in told if steps is not None), None)


def list_numbers(files: RunFiles, lives: Sequence[Life], *, state: str) -> list[tuple[str, str]]:
    """Return the large numbers with a word each; what is not known is left out."""
    step, num_steps = find_last_step(files), find_num_steps(files)
    last: Row = files.metrics[-1] if files.metrics else {}
    rows = [(f"{step:,}", f"of {num_steps:,} steps" if num_steps else "steps")]
    epoch, images = number(last.get("epoch")), number(last.get("images_seen"))
    if epoch is not None:
        rows.append((f"{epoch:.1f}", "epochs"))
    if images is not None:
        rows.append((shorten(images), "images"))
    rows += _list_accuracies(files.evaluations)
    speeds = present(column(files.metrics, "images_per_second"))
    if speeds:
        rows.append((shorten(statistics.median(speeds)), "images/s, median"))
    shares = present(column(files.metrics, "mfu"))
    if shares:
        rows.append((f"{100 * statistics.median(shares):.1f} %", "MFU, median"))
    seconds = sum(life.seconds for life in lives)
    if seconds:
        rows.append((format_seconds(seconds), "wall time" if len(lives) == 1 else f"wall time, {len(lives)} lives"))
        hours = sum(life.seconds * (life.num_ranks or 0) for life in lives) / 3600
        rows.append((f"{hours:.3g}", "GPU-hours" if files.environment.get("gpus") else "rank-hours, no GPU"))
    if num_steps and step < num_steps and state in ("starting", "running"):
        rows.append((format_seconds((num_steps - step) * find_step_seconds(files.metrics[-50:])), "left"))
    return rows


def _list_accuracies(evaluations: Sequence[Row]) -> list[tuple[str, str]]:
    """Return the best and the last top-1, of whichever weights were better there."""
    scored = [(top1, row) for row in evaluations if (top1 := number(row.get("top1"))) is not None]
    if not scored:
        return []
    best, best_row = max(scored, key=lambda pair: pair[0])
    last_step = scored[-1][1]["step"]
    last = max(top1 for top1, row in scored if row["step"] == last_step)
    rows = [(f"{best:.2f} %", f"best top-1, {best_row.get('weights')}, step {best_row['step']:,.0f}")]
    return rows if best_row["step"] == last_step else [*rows, (f"{last:.2f} %", "last top-1")]


def _explain(files: RunFiles, state: str, *, silence: float | None) -> str:
    """Say what to know about the state: why it failed or stopped, since when it is silent, what could not be read."""
    texts = []
    reason = files.status.get("error") or files.status.get("reason")
    if state == "failed":
        phase = files.status.get("phase")
        texts.append(f"Failed{f' during {phase}' if phase else ''}: {reason or 'no reason was written'}")
    elif state == "stopped":
        texts.append(f"Stopped after step {find_last_step(files):,} ({reason}); the same command goes on.")
    elif silence is not None:
        texts.append(
            f"No sign of life for {format_seconds(silence)}: the job was probably killed; the same command goes on "
            "from the last checkpoint."
        )
    elif state == "unknown":
        texts.append("Neither status.json nor events.jsonl says how the run stands.")
    if not files.metrics:
        texts.append("No step has been logged: there is nothing to draw yet.")
    elif not files.events:
        texts.append("Without events.jsonl nothing is known of restarts and of time outside of steps.")
    lines = "".join(f"<p>{escape(text)}</p>" for text in [*texts, *files.problems])
    return f'<div class="card note">{lines}</div>' if lines else ""

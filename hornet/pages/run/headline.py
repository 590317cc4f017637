"""The top of the page: how the run stands, in one look."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from markupsafe import Markup

from hornet.pages.html import render, render_numbers
from hornet.pages.run.files import RunFiles
from hornet.quantities import format_seconds, format_time, shorten
from hornet.runs.attempts import Attempt, find_step_seconds
from hornet.runs.rows import Row, column, number, present

SILENT_SECONDS = 60
"""A job touches owner.json every 10 s: one that has been silent for so long is hardly alive."""
STATES = ("starting", "running", "stopped", "finished", "failed")


HEADLINE = """\
<h1>{{ name }} <span class="state {{ kind }}">{{ state }}</span></h1>
{% if command %}
<p class="soft"><code>{{ command }}</code></p>
{% endif %}
<p class="soft">{{ path }}; as of {{ written }} UTC</p>
{% if notes %}
<div class="card note">
{% for note in notes %}
<p>{{ note }}</p>
{% endfor %}
</div>
{% endif %}
{{ numbers }}
"""


def render_headline(files: RunFiles, attempts: Sequence[Attempt], *, now: float) -> Markup:
    """Render name, state and the large numbers; `now` is in unix seconds."""
    state = find_state(files)
    silence = now - find_last_sign(files, attempts)
    is_silent = state in ("starting", "running") and silence > SILENT_SECONDS
    command = files.environment.get("command")
    return render(
        HEADLINE,
        name=files.path.name,
        kind="silent" if is_silent else state,
        state=f"{state}, but silent" if is_silent else state,
        command=" ".join(str(word) for word in command) if isinstance(command, list) else "",
        path=files.path,
        written=format_time(now),
        notes=_explain(files, state, silence=silence if is_silent else None),
        numbers=render_numbers(list_numbers(files, attempts, state=state)),
    )


def find_state(files: RunFiles) -> str:
    """Return the run's state: that of status.json, else of the last event that is one."""
    said = [files.status.get("state"), *(event.get("event") for event in reversed(files.events))]
    return next((state for state in said if state in STATES), "unknown")


def find_last_sign(files: RunFiles, attempts: Sequence[Attempt]) -> float:
    """Return when anything was last heard of the run, in unix seconds; 0 if never."""
    signs = [attempt.last_sign for attempt in attempts] + present([files.beat, *column(files.metrics[-1:], "time")])
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


def list_numbers(files: RunFiles, attempts: Sequence[Attempt], *, state: str) -> list[tuple[str, str]]:
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
    seconds = sum(attempt.seconds for attempt in attempts)
    if seconds:
        rows.append(
            (format_seconds(seconds), "wall time" if len(attempts) == 1 else f"wall time, {len(attempts)} attempts")
        )
        hours = sum(attempt.seconds * (attempt.num_ranks or 0) for attempt in attempts) / 3600
        rows.append((f"{hours:.3g}", "GPU-hours" if files.environment.get("gpus") else "rank-hours, no GPU"))
    if num_steps and step < num_steps and state in ("starting", "running"):
        rows.append((format_seconds((num_steps - step) * find_step_seconds(files.metrics[-50:])), "left"))
    return rows


def _list_accuracies(evaluations: Sequence[Row]) -> list[tuple[str, str]]:
    """Return the best and the last top-1, mIoU or mask AP, of whichever weights were better there."""
    titles = {"miou": "mIoU", "mask_ap": "mask AP", "top1": "top-1"}
    key = next((key for key in titles if any(key in row for row in evaluations)), "top1")
    title = titles[key]
    scored = [(share, row) for row in evaluations if (share := number(row.get(key))) is not None]
    if not scored:
        return []
    # Weights that have diverged may still hit by chance: their loss is no number.
    best, best_row = max(scored, key=lambda pair: (number(pair[1].get("loss", 0.0)) is not None, pair[0]))
    last_step = scored[-1][1]["step"]
    last = max(share for share, row in scored if row["step"] == last_step)
    rows = [(f"{best:.2f} %", f"best {title}, {best_row.get('weights')}, step {best_row['step']:,.0f}")]
    return rows if best_row["step"] == last_step else [*rows, (f"{last:.2f} %", f"last {title}")]


def _explain(files: RunFiles, state: str, *, silence: float | None) -> list[str]:
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
        texts.append("No step has been logged: there is nothing to show yet.")
    elif not files.events:
        texts.append("Without events.jsonl nothing is known of restarts and of time outside of steps.")
    return [*texts, *files.problems]

"""The tables of the page: time, restarts, dropped steps, stragglers, bad samples, recipe, environment."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hornet.pages.html import draw_table, escape
from hornet.pages.run.attempts import Life
from hornet.pages.run.curves import NUM_COLOURS, format_value
from hornet.pages.run.files import RunFiles, number
from hornet.pages.run.timing import Timing
from hornet.quantities import format_seconds, format_time

NUM_ROWS = 100
NUM_KEYS = 3
NUM_BAD = 20
NUM_RANKS = 20


def draw_timing(timing: Timing) -> str:
    """Draw where the time went, as a stacked bar and a table; empty if nothing is known."""
    counted = sum(timing.parts.values())
    if counted <= 0:
        return ""
    shares = {name: seconds / counted for name, seconds in timing.parts.items() if seconds > 0}
    spans = "".join(
        f'<span class="f{number % NUM_COLOURS}" style="flex: {share:.5f}" title="{name}: {100 * share:.1f} %"></span>'
        for number, (name, share) in enumerate(shares.items())
    )
    keys = "".join(f'<li><i class="f{number % NUM_COLOURS}"></i>{name}</li>' for number, name in enumerate(shares))
    rows = [[name, format_seconds(timing.parts[name]), f"{100 * share:.1f} %"] for name, share in shares.items()]
    label = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())
    return _section(
        "time",
        "Where the time went",
        f'<div class="stack" role="img" aria-label="{label}">{spans}</div><ul class="legend">{keys}</ul><br>'
        f"{draw_table(['of all lives', 'time', 'share'], rows)}",
        note="Of all lives together, without the time between them. Lost work: steps done again or taken back, with "
        "the usual time of a step. Other: logging, pictures, ends of checkpoints, leaving in order.",
    )


def draw_lives(lives: Sequence[Life]) -> str:
    """Draw the table of starts."""
    if not lives:
        return ""
    rows = []
    for index, life in enumerate(lives):
        is_last = index + 1 == len(lives)
        ended = life.end or ("no end known" if is_last else "killed")
        rows.append(
            [
                f"{index + 1}",
                format_time(life.start),
                f"{ended}{f': {life.reason}' if life.reason else ''}",
                "" if life.num_ranks is None else f"{life.num_ranks}",
                f"{life.first_step:,}",
                f"{life.last_step:,}",
                "never" if life.running is None else format_seconds(life.running - life.start),
                format_seconds(life.seconds),
                f"{life.num_lost_steps + life.num_rolled_back:,}",
            ]
        )
    head = ["life", "start (UTC)", "end", "ranks", "from step", "to step", "until first step", "lasted", "steps lost"]
    title = "One life" if len(lives) == 1 else f"{len(lives)} lives"
    return _section("lives", title, draw_table(head, rows[-NUM_ROWS:], num_texts=3))


def draw_dropped(files: RunFiles) -> str:
    """Draw dropped steps and batches that are left out."""
    rows = []
    for row in files.dropped_steps[-NUM_ROWS:]:
        keys = row.get("keys")
        names = [str(key) for key in keys] if isinstance(keys, list) else []
        usual = f"{_show(row.get('mean'))} +- {_show(row.get('sigma'))}" if number(row.get("mean")) is not None else ""
        rows.append(
            [
                _show(row.get("step")),
                str(row.get("reason")),
                f"{len(names)}: {', '.join(names[:NUM_KEYS])}{', ...' if len(names) > NUM_KEYS else ''}",
                _show(row.get("value")),
                usual,
                _show(row.get("loss")),
                _show(row.get("grad_norm")),
            ]
        )
    head = ["step", "reason", "samples", "value", "usual", "loss", "gradient norm"]
    count = len(files.dropped_steps)
    content = draw_table(head, rows, num_texts=3) if rows else "<p>No step was dropped.</p>"
    if files.skipped_batches:
        windows = [
            [
                f"{_show(row.get('first'))} to {_show(row.get('stop'))}",
                str(row.get("by")),
                str(row.get("checkpoint", "")),
            ]
            for row in files.skipped_batches[-NUM_ROWS:]
        ]
        head = ["batches left out (the last one is not)", "decided by", "went back to"]
        content += f"<br>{draw_table(head, windows, num_texts=3)}"
    note = f"The last {NUM_ROWS} of {count:,}." if count > NUM_ROWS else ""
    return _section("dropped", f"Dropped steps: {count:,}", content, note=note)


def draw_stragglers(files: RunFiles) -> str:
    """Draw how often each rank was the slowest; empty with one rank."""
    times: dict[int, list[float]] = defaultdict(list)
    for row in files.metrics:
        rank, ratio = number(row.get("slowest_rank")), number(row.get("slowest_over_median"))
        if rank is not None and ratio is not None:
            times[int(rank)].append(ratio)
    count = sum(len(ratios) for ratios in times.values())
    if len(times) < 2:
        return ""
    ranked = sorted(times.items(), key=lambda pair: (-len(pair[1]), pair[0]))[:NUM_RANKS]
    most = len(ranked[0][1])
    bars = [
        f'<tr><th scope="row" class="name">rank {rank}</th><td style="width: 55%"><div class="f0" style="height: 14px; '
        f'border-radius: 3px; width: {100 * len(ratios) / most:.1f}%"></div></td><td class="n">{len(ratios):,}</td>'
        f'<td class="n">{statistics.median(ratios):.2f}</td><td class="n">{max(ratios):.2f}</td></tr>'
        for rank, ratios in ranked
    ]
    head = "".join(
        f'<th scope="col" class="{kind}">{text}</th>'
        for kind, text in (
            ("name", "rank"),
            ("", "how often the slowest"),
            ("n", "times"),
            ("n", "median"),
            ("n", "most"),
        )
    )
    return _section(
        "stragglers",
        "Slowest ranks",
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(bars)}</tbody></table></div>',
        note=f"Which rank was busy longest (data and forward) in each of {count:,} logged rows, and how many times as "
        "long as the median rank. Chance spreads evenly; a slow machine stands out.",
    )


def draw_bad_samples(files: RunFiles) -> str:
    """Draw samples that could not be used, by reason, and the first of them."""
    count = len(files.bad_samples)
    if not count:
        return _section("bad", "Bad samples: 0", "<p>Every sample could be read.</p>") if files.metrics else ""
    reasons = Counter(str(row.get("reason")) for row in files.bad_samples).most_common(NUM_BAD)
    by_reason = draw_table(["reason", "samples"], [[reason, f"{times:,}"] for reason, times in reasons])
    rows = [
        [str(row.get(key)) for key in ("key", "reason", "substitute", "epoch")] for row in files.bad_samples[:NUM_BAD]
    ]
    first = draw_table(["sample", "reason", "in its place", "epoch"], rows, num_texts=3)
    return _section(
        "bad",
        f"Bad samples: {count:,}",
        f"{by_reason}<br>{first}",
        note=f"Of all lives. Below the reasons the first {min(count, NUM_BAD)}.",
    )


def draw_recipe(recipe: Mapping[str, Any]) -> str:
    """Draw where the run departs from the published recipe; empty if it names none."""
    departures = recipe.get("departures")
    if not recipe or not isinstance(departures, list):
        return ""
    rows = [
        [str(row.get(key)) for key in ("key", "remark", "published", "ours")]
        for row in departures
        if isinstance(row, dict)
    ]
    title = f"Recipe {recipe.get('published')}: {len(rows)} departure{'' if len(rows) == 1 else 's'}"
    table = draw_table(["key", "remark", "published", "this run"], rows, num_texts=2)
    return _section("recipe", title, table if rows else "<p>As published.</p>")


def draw_config(config: str | None) -> str:
    """Draw config.yaml, folded."""
    content = "<p>config.yaml is missing.</p>"
    if config is not None:
        content = f'<details><summary>config.yaml</summary><pre tabindex="0">{escape(config)}</pre></details>'
    return _section("config", "Config", content)


def draw_environment(environment: Mapping[str, Any]) -> str:
    """Draw versions, devices, commit and world of the last life."""
    if not environment:
        return ""
    rows = [[name, value] for name, value in _flatten(environment) if name != "command"]
    return _section("environment", "Environment of the last life", draw_table(["what", "value"], rows, num_texts=2))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            counted = Counter(str(item) for item in value).items()
            yield f"{prefix}{name}", ", ".join(f"{times} x {item}" for item, times in counted) or "none"
        else:
            yield f"{prefix}{name}", str(value)


def _show(value: Any) -> str:
    return format_value(number(value))


def _section(name: str, title: str, content: str, *, note: str = "") -> str:
    shown = f'<p class="soft">{escape(note)}</p>' if note else ""
    return f'<h2 id="{name}">{escape(title)}</h2>{shown}<div class="card">{content}</div>'

"""The tables of the page: time, restarts, dropped steps, stragglers, bad samples, recipe, environment."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from hornet.pages.html import Section, render, render_table
from hornet.pages.run.curves import NUM_COLOURS, format_value
from hornet.pages.run.files import RunFiles
from hornet.quantities import format_seconds, format_time
from hornet.runs.attempts import Attempt
from hornet.runs.rows import number

NUM_ROWS = 100
NUM_KEYS = 3
NUM_BAD = 20
NUM_RANKS = 20

CARD = """<div class="card">{{ content }}</div>"""

SENTENCE = """<p>{{ text }}</p>"""

TWO_TABLES = """{{ first }}{% if second %}<br>{{ second }}{% endif %}"""

TIMING = """\
<div class="stack" role="img" aria-label="{{ label }}">
{% for colour, share, name, percent in spans %}
<span class="f{{ colour }}" style="flex: {{ share }}" title="{{ name }}: {{ percent }}"></span>
{% endfor %}
</div>
<ul class="legend">
{% for colour, _, name, _ in spans %}
<li><i class="f{{ colour }}"></i>{{ name }}</li>
{% endfor %}
</ul><br>
{{ table }}
"""

STRAGGLERS = """\
<div class="scroll"><table>
<thead><tr><th scope="col" class="name">rank</th><th scope="col">how often the slowest</th>
<th scope="col" class="n">times</th><th scope="col" class="n">median</th><th scope="col" class="n">most</th>
</tr></thead>
<tbody>
{% for rank, width, times, median, most in bars %}
<tr><th scope="row" class="name">{{ rank }}</th><td style="width: 55%">
<div class="f0" style="height: 14px; border-radius: 3px; width: {{ width }}"></div></td>
<td class="n">{{ times }}</td><td class="n">{{ median }}</td><td class="n">{{ most }}</td></tr>
{% endfor %}
</tbody></table></div>
"""

CONFIG = """\
{% if config is none %}
<p>config.yaml is missing.</p>
{% else %}
<details><summary>config.yaml</summary><pre tabindex="0">{{ config }}</pre></details>
{% endif %}
"""


def render_timing(seconds_of: Mapping[str, float]) -> Section | None:
    """Render where the time went, as a stacked bar and a table; None if nothing is known."""
    counted = sum(seconds_of.values())
    if counted <= 0:
        return None
    shares = {name: seconds / counted for name, seconds in seconds_of.items() if seconds > 0}
    rows = [[name, format_seconds(seconds_of[name]), f"{100 * share:.1f} %"] for name, share in shares.items()]
    label = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())
    spans = [
        (number % NUM_COLOURS, f"{share:.5f}", name, f"{100 * share:.1f} %")
        for number, (name, share) in enumerate(shares.items())
    ]
    table = render_table(["of all attempts", "time", "share"], rows)
    return _make_section(
        "time",
        "Time",
        "Where the time went",
        render(TIMING, label=label, spans=spans, table=table),
        note="Of all attempts together, without the time between them. Lost work: steps done again or taken back, with "
        "the usual time of a step. Other: logging, images, ends of checkpoints, leaving in order.",
    )


def render_attempts(attempts: Sequence[Attempt]) -> Section | None:
    """Render the table of starts."""
    if not attempts:
        return None
    rows = []
    for index, attempt in enumerate(attempts):
        is_last = index + 1 == len(attempts)
        ended = attempt.end or ("no end known" if is_last else "killed")
        rows.append(
            [
                f"{index + 1}",
                format_time(attempt.start),
                f"{ended}{f': {attempt.reason}' if attempt.reason else ''}",
                "" if attempt.num_ranks is None else f"{attempt.num_ranks}",
                f"{attempt.first_step:,}",
                f"{attempt.last_step:,}",
                "never" if attempt.running is None else format_seconds(attempt.running - attempt.start),
                format_seconds(attempt.seconds),
                f"{attempt.num_lost_steps + attempt.num_rolled_back:,}",
            ]
        )
    head = [
        "attempt",
        "start (UTC)",
        "end",
        "ranks",
        "from step",
        "to step",
        "until first step",
        "lasted",
        "steps lost",
    ]
    title = "One attempt" if len(attempts) == 1 else f"{len(attempts)} attempts"
    return _make_section("attempts", "Attempts", title, render_table(head, rows[-NUM_ROWS:], num_texts=3))


def render_dropped(files: RunFiles) -> Section | None:
    """Render dropped steps and batches that are left out; None if no step was logged or dropped."""
    if not files.metrics and not files.dropped_steps:
        return None
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
    steps = render_table(head, rows, num_texts=3) if rows else render(SENTENCE, text="No step was dropped.")
    windows = None
    if files.skipped_batches:
        left_out = [
            [
                f"{_show(row.get('first'))} to {_show(row.get('stop'))}",
                str(row.get("by")),
                str(row.get("checkpoint", "")),
            ]
            for row in files.skipped_batches[-NUM_ROWS:]
        ]
        head = ["batches left out (the last one is not)", "decided by", "went back to"]
        windows = render_table(head, left_out, num_texts=3)
    note = f"The last {NUM_ROWS} of {count:,}." if count > NUM_ROWS else ""
    return _make_section(
        "dropped",
        "Dropped steps",
        f"Dropped steps: {count:,}",
        render(TWO_TABLES, first=steps, second=windows),
        note=note,
    )


def render_stragglers(files: RunFiles) -> Section | None:
    """Render how often each rank was the slowest; None with one rank."""
    times: dict[int, list[float]] = defaultdict(list)
    for row in files.metrics:
        rank, ratio = number(row.get("slowest_rank")), number(row.get("slowest_over_median"))
        if rank is not None and ratio is not None:
            times[int(rank)].append(ratio)
    count = sum(len(ratios) for ratios in times.values())
    if len(times) < 2:
        return None
    ranked = sorted(times.items(), key=lambda pair: (-len(pair[1]), pair[0]))[:NUM_RANKS]
    most = len(ranked[0][1])
    bars = [
        (
            f"rank {rank}",
            f"{100 * len(ratios) / most:.1f}%",
            f"{len(ratios):,}",
            f"{statistics.median(ratios):.2f}",
            f"{max(ratios):.2f}",
        )
        for rank, ratios in ranked
    ]
    return _make_section(
        "stragglers",
        "Slowest ranks",
        "Slowest ranks",
        render(STRAGGLERS, bars=bars),
        note=f"Which rank was busy longest (data and forward) in each of {count:,} logged rows, and how many times as "
        "long as the median rank. Chance spreads evenly; a slow machine stands out.",
    )


def render_bad_samples(files: RunFiles) -> Section | None:
    """Render samples that could not be used, by reason, and the first of them."""
    count = len(files.bad_samples)
    if not count:
        none_bad = render(SENTENCE, text="Every sample could be read.")
        return _make_section("bad", "Bad samples", "Bad samples: 0", none_bad) if files.metrics else None
    reasons = Counter(str(row.get("reason")) for row in files.bad_samples).most_common(NUM_BAD)
    by_reason = render_table(["reason", "samples"], [[reason, f"{times:,}"] for reason, times in reasons])
    rows = [
        [str(row.get(key)) for key in ("key", "reason", "substitute", "epoch")] for row in files.bad_samples[:NUM_BAD]
    ]
    first = render_table(["sample", "reason", "in its place", "epoch"], rows, num_texts=3)
    return _make_section(
        "bad",
        "Bad samples",
        f"Bad samples: {count:,}",
        render(TWO_TABLES, first=by_reason, second=first),
        note=f"Of all attempts. Below the reasons the first {min(count, NUM_BAD)}.",
    )


def render_recipe(recipe: Mapping[str, Any]) -> Section | None:
    """Render where the run departs from the published recipe; None if it names none."""
    departures = recipe.get("departures")
    if not recipe or not isinstance(departures, list):
        return None
    rows = [
        [str(row.get(key)) for key in ("key", "remark", "published", "ours")]
        for row in departures
        if isinstance(row, dict)
    ]
    title = f"Recipe {recipe.get('published')}: {len(rows)} departure{'' if len(rows) == 1 else 's'}"
    table = render_table(["key", "remark", "published", "this run"], rows, num_texts=2)
    return _make_section("recipe", "Recipe", title, table if rows else render(SENTENCE, text="As published."))


def render_config(config: str | None) -> Section:
    """Render config.yaml, folded."""
    return _make_section("config", "Config", "Config", render(CONFIG, config=config))


def render_environment(environment: Mapping[str, Any]) -> Section | None:
    """Render versions, devices, commit and world of the last attempt."""
    if not environment:
        return None
    rows = [[name, value] for name, value in _flatten(environment) if name != "command"]
    table = render_table(["what", "value"], rows, num_texts=2)
    return _make_section("environment", "Environment", "Environment of the last attempt", table)


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


def _make_section(id: str, name: str, title: str, content: Markup, *, note: str = "") -> Section:
    return Section(id=id, name=name, title=title, note=note, body=render(CARD, content=content))

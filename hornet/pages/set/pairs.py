"""Training samples beside the validation samples they look like, on one page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from markupsafe import Markup

from hornet.pages.html import render, write_page
from hornet.pages.set.survey import look_at
from hornet.pages.set.tile import STYLE, render_tile
from hornet.shards.reader import ShardReader
from hornet.shards.views.duplicates import DuplicatesReport, Match, describe_duplicates
from hornet.shards.views.image_hash import HASH_SIDE

NUM_PAIRS_SHOWN = 100

PAIRS = """\
<h1>{{ title }}</h1>
<p class="soft">{% for line in lines %}{{ line }}{% if not loop.last %}<br>{% endif %}{% endfor %}</p>
<h2>{{ pairs | length }} of {{ num_pairs }} pairs, the nearest first</h2><div class="pairs">
{% for pair in pairs %}
{{ pair }}
{% endfor %}
</div>
"""

PAIR = """<div class="pair"><p>{{ text }}</p><div class="tiles">{{ one }}{{ other }}</div></div>"""


def write_pairs_page(report: DuplicatesReport, path: Path) -> None:
    """Write a page that shows pairs side by side, from the nearest to the farthest, evenly over all."""
    ordered = sorted(report.matches, key=lambda match: (not match.same_bytes, match.distance, match.sample))
    num_shown = min(len(ordered), NUM_PAIRS_SHOWN)
    rows = np.linspace(0, len(ordered) - 1, num_shown).round().astype(int).tolist()
    readers = (ShardReader(report.train), ShardReader(report.validation))
    pairs = [_render_pair(report, readers, ordered[row]) for row in rows]
    for reader in readers:
        reader.close()
    names = f"{report.train.split.name} and {report.validation.split.name}"
    title = f"Images in both {names}"
    body = render(
        PAIRS,
        title=title,
        lines=describe_duplicates(report).splitlines(),
        num_pairs=len(ordered),
        pairs=pairs,
    )
    write_page(path, title=title, body=body, style=STYLE)


def _render_pair(report: DuplicatesReport, readers: tuple[ShardReader, ShardReader], match: Match) -> Markup:
    one = look_at(report.train, readers[0], match.sample, renders_thumbnail=True)
    other = look_at(report.validation, readers[1], match.other, renders_thumbnail=True)
    text = "equal bytes" if match.same_bytes else f"{match.distance} of {HASH_SIDE * HASH_SIDE} bits differ"
    return render(PAIR, text=text, one=render_tile(one), other=render_tile(other))

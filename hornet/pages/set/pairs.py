"""Training samples beside the validation samples they look like, on one page."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hornet.pages.html import escape, write_page
from hornet.pages.set.survey import look_at
from hornet.pages.set.tile import STYLE, draw_tile
from hornet.shards.reader import ShardReader
from hornet.shards.views.duplicates import DuplicatesReport, Match, describe_duplicates
from hornet.shards.views.image_hash import HASH_SIDE

NUM_PAIRS_SHOWN = 100


def write_pairs_page(report: DuplicatesReport, path: Path) -> None:
    """Write a page that shows pairs side by side, from the nearest to the farthest, evenly over all."""
    ordered = sorted(report.matches, key=lambda match: (not match.same_bytes, match.distance, match.sample))
    num_shown = min(len(ordered), NUM_PAIRS_SHOWN)
    rows = np.linspace(0, len(ordered) - 1, num_shown).round().astype(int).tolist()
    readers = (ShardReader(report.train), ShardReader(report.validation))
    pairs = "".join(_draw_pair(report, readers, ordered[row]) for row in rows)
    for reader in readers:
        reader.close()
    names = f"{report.train.split.name} and {report.validation.split.name}"
    lines = "<br>".join(escape(line) for line in describe_duplicates(report).splitlines())
    body = (
        f'<h1>Pictures in both {escape(names)}</h1><p class="soft">{lines}</p>'
        f'<h2>{len(rows)} of {len(ordered)} pairs, the nearest first</h2><div class="pairs">{pairs}</div>'
    )
    write_page(path, title=f"Pictures in both {names}", body=body, style=STYLE)


def _draw_pair(report: DuplicatesReport, readers: tuple[ShardReader, ShardReader], match: Match) -> str:
    one = look_at(report.train, readers[0], match.sample, draws_thumbnail=True)
    other = look_at(report.validation, readers[1], match.other, draws_thumbnail=True)
    text = "equal bytes" if match.same_bytes else f"{match.distance} of {HASH_SIDE * HASH_SIDE} bits differ"
    return f'<div class="pair"><p>{text}</p><div class="tiles">{draw_tile(one)}{draw_tile(other)}</div></div>'

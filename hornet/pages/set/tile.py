"""One sample as a tile of a page."""

from __future__ import annotations

from markupsafe import Markup

from hornet.pages.html import render
from hornet.pages.set.survey import Tile
from hornet.shards.label_report import find_meaning

STYLE = """
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(124px, 1fr)); gap: 12px; }
.tile { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px; overflow: hidden; }
.tile img, .tile .broken { display: block; width: 100%; aspect-ratio: 1; object-fit: cover; background: var(--wash); }
.tile .broken { display: flex; align-items: center; padding: 10px; font-size: 11.5px; line-height: 1.35;
  color: var(--warn); background: repeating-linear-gradient(45deg, var(--warn-wash) 0 9px, transparent 9px 18px);
  overflow-wrap: anywhere; overflow: hidden; }
figcaption { padding: 7px 10px 9px; font-size: 12.5px; line-height: 1.35; }
figcaption div { display: -webkit-box; -webkit-line-clamp: 2; -webkit-box-orient: vertical; overflow: hidden;
  overflow-wrap: anywhere; }
figcaption small { display: block; color: var(--soft); font-size: 11px; white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; }
.many { columns: 260px; column-gap: 28px; font-size: 12.5px; margin: 12px 0 0; padding: 0; list-style: none; }
.many li { display: flex; gap: 10px; justify-content: space-between; border-bottom: 1px solid var(--line); }
.many span:first-child { overflow-wrap: anywhere; } .many .n { color: var(--soft); }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); gap: 14px; }
.pair { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 12px; min-width: 0; }
.pair .tiles { grid-template-columns: 1fr 1fr; gap: 8px; } .pair .tile { border: 0; } .pair p { margin: 0 0 8px; }
.pair .tile img { object-fit: contain; border-radius: 8px; } .pair figcaption { padding: 6px 0 0; }
@media (max-width: 560px) { .tiles { grid-template-columns: repeat(3, 1fr); gap: 8px; }
  figcaption { padding: 6px 8px 7px; font-size: 11.5px; } }
"""

TILE = """\
<figure class="tile" title="{{ tile.key }} ({{ tile.class_name }})">
{% if tile.size is none %}
<div class="broken"><span>damaged: {{ tile.problem }}</span></div>
{% else %}
<img alt="" loading="lazy" src="{{ tile.thumbnail }}">
{% endif %}
<figcaption><div>{{ meaning }}</div><small>
  {%- if tile.size is not none %}{{ tile.size[0] }} x {{ tile.size[1] }} {% endif -%}
  {{ stem }}</small></figcaption></figure>
"""


def render_tile(tile: Tile) -> Markup:
    """Render one sample: the image, or what is wrong with it, its class and its key."""
    meaning = find_meaning(tile.class_name) or tile.class_name
    return render(TILE, tile=tile, meaning=meaning, stem=tile.key.rpartition("/")[2])

"""What our pages share: one self-contained file, light and dark, readable on a phone, no scripts."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from hornet.data.prepare.survey import Tile, describe_class
from hornet.durable import write_bytes

STYLE = """
:root { color-scheme: light dark; --ground: #f6f7f9; --card: #fff; --ink: #1c2430; --soft: #5f6b7a; --line: #e2e6ec;
  --accent: #3267d6; --wash: #3267d622; --warn: #b3401f; --warn-wash: #b3401f14; }
@media (prefers-color-scheme: dark) { :root { --ground: #12161c; --card: #1a2029; --ink: #e6eaf0; --soft: #94a0b0;
  --line: #2b3441; --accent: #79a5ff; --wash: #79a5ff2b; --warn: #ff9a76; --warn-wash: #ff9a7618; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -.02em; overflow-wrap: anywhere; }
h2 { font-size: 21px; margin: 44px 0 14px; letter-spacing: -.01em; overflow-wrap: anywhere; }
h3 { font-size: 14px; font-weight: 600; margin: 0 0 10px; color: var(--soft); }
p { margin: 0 0 10px; overflow-wrap: anywhere; }
.soft { color: var(--soft); }
code { font: 12.5px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px 18px; min-width: 0; }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 12px; margin: 22px 0 14px; }
.numbers strong { display: block; font-size: 24px; line-height: 1.25; font-weight: 650; letter-spacing: -.02em; }
.numbers span { color: var(--soft); font-size: 13px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 14px;
  margin-bottom: 14px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; font-size: 13px; color: var(--soft); }
th, td { padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; } th:last-child, td:last-child { padding-right: 0; }
.n { text-align: right; white-space: nowrap; }
td.name { overflow-wrap: anywhere; min-width: 110px; }
svg { display: block; width: 100%; height: auto; } svg text { font-size: 12px; fill: var(--soft); }
.grid { stroke: var(--line); stroke-width: 1; } .base { stroke: var(--soft); stroke-width: 1; opacity: .6; }
.line { fill: none; stroke: var(--accent); stroke-width: 2; stroke-linejoin: round; } .area { fill: var(--wash); }
.bars { fill: var(--accent); opacity: .85; } .dots { fill: var(--accent); fill-opacity: .4; }
.dash { stroke: var(--soft); stroke-dasharray: 4 4; opacity: .5; }
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
.warn { color: var(--warn); } details { margin-top: 14px; } summary { cursor: pointer; color: var(--accent); }
.many { columns: 260px; column-gap: 28px; font-size: 12.5px; margin: 12px 0 0; padding: 0; list-style: none; }
.many li { display: flex; gap: 10px; justify-content: space-between; border-bottom: 1px solid var(--line); }
.many span:first-child { overflow-wrap: anywhere; } .many .n { color: var(--soft); }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); gap: 14px; }
.pair { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 12px; min-width: 0; }
.pair .tiles { grid-template-columns: 1fr 1fr; gap: 8px; } .pair .tile { border: 0; } .pair p { margin: 0 0 8px; }
.pair .tile img { object-fit: contain; border-radius: 8px; } .pair figcaption { padding: 6px 0 0; }
@media (max-width: 560px) { main { padding: 22px 14px 48px; } h1 { font-size: 25px; }
  .numbers { grid-template-columns: 1fr 1fr 1fr; gap: 8px; } .card { padding: 12px 13px; }
  .numbers strong { font-size: 18px; } th, td { padding-right: 9px; font-size: 13px; } td.name { min-width: 64px; }
  .tiles { grid-template-columns: repeat(3, 1fr); gap: 8px; } figcaption { padding: 6px 8px 7px; font-size: 11.5px; } }
"""

# Whatever stands in names and keys, the browser may load nothing and run nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write_page(path: Path, *, title: str, body: str) -> None:
    """Write a page; `title` is text, `body` is HTML whose texts were escaped."""
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>{body}</main></body></html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, page.encode())


def escape(text: str) -> str:
    """Make text harmless within HTML; what cannot be encoded (a file name's raw bytes) becomes a question mark."""
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"))


def draw_numbers(numbers: Iterable[tuple[str, str]]) -> str:
    """Lay out large numbers with a word each."""
    cards = (
        f'<div class="card"><strong>{escape(number)}</strong><span>{escape(word)}</span></div>'
        for number, word in numbers
    )
    return f'<div class="numbers">{"".join(cards)}</div>'


def draw_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, num_texts: int = 1) -> str:
    """Lay out texts; columns after the first `num_texts` are numbers, to the right."""
    kinds = ["name" if column < num_texts else "n" for column in range(len(head))]
    top = "".join(f'<th class="{kind}">{escape(text)}</th>' for kind, text in zip(kinds, head, strict=True))
    lines = (
        "<tr>" + "".join(f'<td class="{kind}">{escape(t)}</td>' for kind, t in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def draw_tile(tile: Tile) -> str:
    """Draw one sample: the picture, or what is wrong with it, its class and its key."""
    name = escape(describe_class(tile.class_name))
    picture = f'<img alt="" loading="lazy" src="{tile.thumbnail}">'
    note = f"{tile.size[0]} x {tile.size[1]} " if tile.size else ""
    if tile.size is None:
        picture = f'<div class="broken"><span>damaged: {escape(tile.problem)}</span></div>'
    return (
        f'<figure class="tile" title="{escape(tile.key)} ({escape(tile.class_name)})">{picture}'
        f"<figcaption><div>{name}</div><small>{note}{escape(tile.key.rpartition('/')[2])}</small></figcaption></figure>"
    )

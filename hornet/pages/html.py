"""What our pages share: one self-contained file, light and dark, readable on a phone and on paper.

Its HTML and SVG come from short templates that stand beside the functions that fill them.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from hornet.durable import write_bytes
from hornet.errors import UserError

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
tbody th { font-weight: inherit; font-size: inherit; color: inherit; }
.name { overflow-wrap: anywhere; min-width: 110px; }
svg { display: block; width: 100%; height: auto; } svg text { font-size: 12px; fill: var(--soft); }
.grid { stroke: var(--line); stroke-width: 1; } .base { stroke: var(--soft); stroke-width: 1; opacity: .6; }
.line { fill: none; stroke: var(--accent); stroke-width: 2; stroke-linejoin: round; } .area { fill: var(--wash); }
.bars { fill: var(--accent); opacity: .85; } .dots { fill: var(--accent); fill-opacity: .4; }
.dash { stroke: var(--soft); stroke-dasharray: 4 4; opacity: .5; }
.warn { color: var(--warn); } details { margin-top: 14px; } summary { cursor: pointer; color: var(--accent); }
@media (max-width: 560px) { main { padding: 22px 14px 48px; } h1 { font-size: 25px; }
  .numbers { grid-template-columns: 1fr 1fr 1fr; gap: 8px; } .card { padding: 12px 13px; }
  .numbers strong { font-size: 18px; } th, td { padding-right: 9px; font-size: 13px; } .name { min-width: 64px; } }
@media print { :root { color-scheme: light; --ground: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #ccc;
  --accent: #3267d6; --warn: #b3401f; } main { max-width: none; padding: 0; } h2, h3 { break-after: avoid; }
  * { print-color-adjust: exact; } .card, tr { break-inside: avoid; } .scroll { overflow: visible; } }
"""

# Whatever stands in names and keys, the browser loads nothing, and runs nothing but the page's own script, by its hash.
PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:
  {%- if script %}; script-src 'sha256-{{ digest }}'{% endif %}">
<title>{{ title }}</title><style>{{ style }}</style></head>
<body><main>{{ body }}</main>{% if script %}<script>{{ script }}</script>{% endif %}</body></html>
"""

NUMBERS = """\
<div class="numbers">
{% for number, word in numbers %}
<div class="card"><strong>{{ number }}</strong><span>{{ word }}</span></div>
{% endfor %}
</div>
"""

TABLE = """\
<div class="scroll"><table>
<thead><tr>
{% for kind, text in head %}
<th scope="col" class="{{ kind }}">{{ text }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in rows %}
<tr>
{% for kind, text in row %}
{% if loop.first %}
<th scope="row" class="{{ kind }}">{{ text }}</th>
{% else %}
<td class="{{ kind }}">{{ text }}</td>
{% endif %}
{% endfor %}
</tr>
{% endfor %}
</tbody></table></div>
"""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page that its navigation leads to."""

    id: str
    """The HTML id that the link leads to."""
    name: str
    """What the link says."""
    title: str
    """The heading, which may tell more than the link."""
    note: str = ""
    """How to read what follows; empty for nothing."""
    body: Markup
    """Rendered HTML that stands below heading and note."""


def render(template: str, **values: Any) -> Markup:
    """Fill a template of ours: every text is escaped, what was rendered before (Markup) is taken as it is.

    Raises jinja2.UndefinedError if the template names a value that is not given.
    """
    return Markup(_compile(template).render(values))


def join(parts: Iterable[Markup]) -> Markup:
    """Put rendered parts behind each other."""
    return Markup("").join(parts)


def write_page(path: Path, *, title: str, body: Markup, style: str = "", script: str = "") -> None:
    """Write a page; `title` is plain text, `style` and `script` are our own.

    Raises UserError if it cannot be written.
    """
    page = render(
        PAGE,
        title=title,
        body=body,
        style=Markup(STYLE + style),
        script=Markup(script),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, page.encode())
    except OSError as error:
        raise UserError(f"{path}: the page cannot be written: {error.strerror}; name another file") from error


def render_numbers(numbers: Iterable[tuple[str, str]]) -> Markup:
    """Lay out large numbers with a word each."""
    return render(NUMBERS, numbers=numbers)


def render_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, num_texts: int = 1) -> Markup:
    """Lay out texts, a row as long as the head; columns after the first `num_texts` are numbers, to the right."""
    kinds = ["name" if column < num_texts else "n" for column in range(len(head))]
    head_cells, *cells = [list(zip(kinds, texts, strict=True)) for texts in (head, *rows)]
    return render(TABLE, head=head_cells, rows=cells)


def _encodable(value: Any) -> Any:
    """Give what enters a template: of text that UTF-8 cannot hold (a file name's raw bytes) a question mark remains."""
    if hasattr(value, "__html__"):
        return value
    return str(value).encode("utf-8", "replace").decode("utf-8")


_TEMPLATES = Environment(
    autoescape=True, undefined=StrictUndefined, finalize=_encodable, trim_blocks=True, lstrip_blocks=True
)


@cache
def _compile(template: str) -> Template:
    return _TEMPLATES.from_string(template)

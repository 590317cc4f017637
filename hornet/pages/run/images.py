"""The images of a run on its page: the first and the newest of each kind."""

from __future__ import annotations

import base64
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from hornet.pages.html import Section, join, render

NUM_BYTES = 12_000_000
"""Of all images on the page, before base64; beyond, those that come last are left out."""
NAME = re.compile(r"(.+)_step_(\d+)")

FIGURES = """<div class="images">{{ figures }}</div>"""

FIGURE = """\
<figure class="card">
{% if address %}
<img alt="{{ text }}" loading="lazy" src="{{ address }}">
{% else %}
<p class="warn">The image is damaged.</p>
{% endif %}
<figcaption>{{ text }}</figcaption></figure>
"""


def render_images(paths: Sequence[Path]) -> Section | None:
    """Render the first and newest image of each name; one that is damaged is said to be. None without images."""
    found: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for path in paths:
        if match := NAME.fullmatch(path.stem):
            found[match.group(1)].append((int(match.group(2)), path))
    figures, left, num_left_out = [], NUM_BYTES, 0
    for name, images in sorted(found.items()):
        for step, path in dict.fromkeys((min(images), max(images))):
            content = _read_png(path)
            if content is not None and len(content) > left:
                num_left_out += 1
                continue
            left -= len(content or b"")
            figures.append(_render_figure(name, step, content))
    if not figures:
        return None
    left_out = f" {num_left_out} more do not fit on this page; see images/." if num_left_out else ""
    return Section(
        id="images",
        name="Images",
        title="Images",
        note="Augmented images as the network saw them, and magnitudes of global filters with the zero frequency in "
        f"the middle: the first and the newest.{left_out}",
        body=render(FIGURES, figures=join(figures)),
    )


def _read_png(path: Path) -> bytes | None:
    """Return the bytes of an image that is whole, else None."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.load()
        return path.read_bytes()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _render_figure(name: str, step: int, content: bytes | None) -> Markup:
    address = None if content is None else f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return render(FIGURE, text=f"{describe(name)}, step {step:,}", address=address)


def describe(name: str) -> str:
    """Return what an image's name means."""
    if name == "augmented_images":
        return "Augmented images"
    if name.startswith("filter_"):
        return f"Filters of {name.removeprefix('filter_').removesuffix('.complex_weight')}"
    return name

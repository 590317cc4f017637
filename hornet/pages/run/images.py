"""The pictures of a run on its page: the first and the newest of each kind."""

from __future__ import annotations

import base64
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from hornet.pages.html import escape

NUM_BYTES = 12_000_000
"""Of all pictures on the page, before base64; beyond, those that come last are left out."""
NAME = re.compile(r"(.+)_step_(\d+)")


def draw_images(paths: Sequence[Path]) -> str:
    """Draw the first and newest picture of each name; one that is damaged is said to be. Empty without pictures."""
    found: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for path in paths:
        if match := NAME.fullmatch(path.stem):
            found[match.group(1)].append((int(match.group(2)), path))
    figures, left, num_left_out = "", NUM_BYTES, 0
    for name, pictures in sorted(found.items()):
        for step, path in dict.fromkeys((min(pictures), max(pictures))):
            content = _read_png(path)
            if content is not None and len(content) > left:
                num_left_out += 1
                continue
            left -= len(content or b"")
            figures += _draw(name, step, content)
    if not figures:
        return ""
    note = f" {num_left_out} more do not fit on this page; see pictures/." if num_left_out else ""
    return (
        '<h2 id="pictures">Pictures</h2><p class="soft">Augmented images as the network saw them, and magnitudes of '
        f"global filters with the zero frequency in the middle: the first and the newest.{note}</p>"
        f'<div class="pictures">{figures}</div>'
    )


def _read_png(path: Path) -> bytes | None:
    """Return the bytes of a picture that is whole, else None."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.load()
        return path.read_bytes()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _draw(name: str, step: int, content: bytes | None) -> str:
    text = escape(f"{describe(name)}, step {step:,}")
    picture = '<p class="warn">The picture is damaged.</p>'
    if content is not None:
        picture = f'<img alt="{text}" loading="lazy" src="data:image/png;base64,{base64.b64encode(content).decode()}">'
    return f'<figure class="card">{picture}<figcaption>{text}</figcaption></figure>'


def describe(name: str) -> str:
    """Return what a picture's name means."""
    if name == "augmented_images":
        return "Augmented images"
    if name.startswith("filter_"):
        return f"Filters of {name.removeprefix('filter_').removesuffix('.complex_weight')}"
    return name

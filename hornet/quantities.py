"""Quantities: in words for people, and small arithmetic on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

FP32_BYTES = 4


def list_divisors(number: int) -> list[int]:
    """Return all divisors of a positive number, ascending."""
    small = [divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0]
    return small + [number // divisor for divisor in reversed(small) if divisor * divisor != number]


def format_seconds(seconds: float) -> str:
    """Return a duration for people: 0.4 s, 45 s, 3 min 20 s, 5 h 12 min, 2 d 3 h."""
    for unit, size, smaller, smaller_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} {int(seconds % size // smaller_size)} {smaller}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def format_time(seconds: float) -> str:
    """Return a moment in unix seconds as date and time in UTC, "unknown" if it is none of the years 1 to 9999."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"
    except (OverflowError, ValueError, OSError):
        return "unknown"


def format_bytes(num_bytes: float) -> str:
    """Return a size with its unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.4g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.4g} TB"


def align(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table: its first column and its last to the left, numbers between them to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, *rows):
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:-1], row[-1]]).rstrip())
    return lines


def shorten(number: float) -> str:
    """Return a number in few characters: 950, 1.3k, 14M."""
    for limit, divisor, unit in ((1e3, 1, ""), (1e6, 1e3, "k"), (1e9, 1e6, "M"), (math.inf, 1e9, "G")):
        if abs(number) < limit:
            return f"{number / divisor:.3g}{unit}"
    raise AssertionError(number)

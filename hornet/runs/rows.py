"""Numbers in the rows of a run's files, where anything may be missing or damaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]

LARGEST = 1e30
"""Numbers beyond are no measurement of ours: they are treated as missing."""


def number(value: Any) -> float | None:
    """Return a number that can be shown; None for null, text, and what is not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= LARGEST else None  # which NaN is not


def column(rows: Sequence[Row], key: str) -> list[float | None]:
    """Return one field of all rows."""
    return [number(row.get(key)) for row in rows]


def present(values: Sequence[float | None]) -> list[float]:
    """Leave out what is missing."""
    return [value for value in values if value is not None]

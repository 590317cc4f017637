"""The label of a sample as it stands in a tar: an integer in the .cls member, or a key of the .json member."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from hornet.errors import UserError

LABEL_EXTENSION = "cls"
JSON_EXTENSION = "json"

NO_LABEL = -1
"""In a .json member: the sample has no class in this label space and is left out, as timm does."""

MAX_CLS_BYTES = 512
MAX_JSON_BYTES = 1 << 20

_INTEGER = re.compile(rb"[+-]?\d{1,9}")
_INTEGERS = re.compile(rb"\d{1,9}(?:,\d{1,9})*")


class LabelError(Exception):
    """What is wrong with the content of a label's member."""


def label_extension(label_key: str | None) -> str:
    """Return the extension of the members that hold the labels; `label_key` as for `parse_label`."""
    return LABEL_EXTENSION if label_key is None else JSON_EXTENSION


def max_label_bytes(label_key: str | None) -> int:
    """Return the most bytes such a member may have."""
    return MAX_CLS_BYTES if label_key is None else MAX_JSON_BYTES


def read_label_option(text: str | None) -> str | None:
    """Read `--labels`: `cls` (or nothing) gives None, `json:KEY` gives the key; raises UserError."""
    if text in (None, LABEL_EXTENSION):
        return None
    kind, _, key = str(text).partition(":")
    if kind != JSON_EXTENSION or not key:
        raise UserError(f"--labels: must be cls or json:KEY, for example json:label, not {text!r}")
    return key


def parse_label(content: bytes, label_key: str | None) -> int:
    """Return the label in a .cls member's content (`label_key` None) or in that key of a .json member's.

    Raises LabelError.
    """
    if label_key is not None:
        return _parse_json(content, label_key)
    text = content.strip()
    if len(content) > MAX_CLS_BYTES or not _INTEGER.fullmatch(text):
        raise LabelError(f"must hold one integer, not {content[:20]!r}")
    return int(text)


def parse_labels(contents: Sequence[bytes], label_key: str | None) -> list[int]:
    """As `parse_label`, for many; faster for .cls members that are plain numbers."""
    if label_key is None:
        text = b",".join(contents)
        if _INTEGERS.fullmatch(text) and text.count(b",") == len(contents) - 1:
            return [int(content) for content in contents]
    return [parse_label(content, label_key) for content in contents]


def _parse_json(content: bytes, key: str) -> int:
    if len(content) > MAX_JSON_BYTES:
        raise LabelError(f"is larger than the {MAX_JSON_BYTES} bytes of a description")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise LabelError(f"is not JSON ({str(error)[:100]})") from error
    if not isinstance(value, dict) or key not in value:
        known = ", ".join(sorted(value)[:10]) if isinstance(value, dict) else "no keys at all"
        raise LabelError(f"has no key {key!r} for the label; it has: {known}")
    label = value[key]
    if not isinstance(label, int) or isinstance(label, bool) or abs(label) >= 10**9:
        raise LabelError(f"must hold one integer under {key!r}, not {str(label)[:20]!r}")
    return label

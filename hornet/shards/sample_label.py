"""The label of a sample as it stands in a tar: an integer in the .cls member, or a key of the .json member."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from hornet.errors import UserError

LABEL_EXTENSION = "cls"
JSON_EXTENSION = "json"

NO_LABEL = -1
"""In a .json member: the sample has no class in this label space and is left out, as timm does."""

MAX_CLS_BYTES = 512
MAX_JSON_BYTES = 1 << 20

_INTEGER = re.compile(rb"[+-]?\d{1,9}")
_DIGITS = re.compile("[+-]?[0-9]+")


class LabelError(Exception):
    """What is wrong with a sample's label."""


class MissingLabelError(LabelError):
    """There is a member for the label, but none in it."""


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


def parse_label(content: bytes, label_key: str | None, names: Mapping[str, int] | None = None) -> int:
    """Return the label in a .cls member's content (`label_key` None) or in that key of a .json member's.

    A key with dots that is not there itself leads through objects within objects. `names` are the labels of class names
    that may stand for numbers. Raises MissingLabelError where there is none, and LabelError.
    """
    if label_key is not None:
        return _parse_json(content, label_key, names)
    text = content.strip()
    if len(content) <= MAX_CLS_BYTES and _INTEGER.fullmatch(text):
        return int(text)
    if not text:
        raise MissingLabelError("is empty, where an integer is wanted")
    return _look_up(text[:MAX_CLS_BYTES].decode("utf-8", "replace"), names, "must hold one integer", repr(content[:20]))


def _look_up(text: str, names: Mapping[str, int] | None, wanted: str, shown: str) -> int:
    """Return the label of a class by its name."""
    if names is not None and text in names:
        return names[text]
    if _DIGITS.fullmatch(text):
        raise LabelError(f"{wanted}, not {shown}" if len(text) < 10 else f"{wanted} below 10^9, not {shown}")
    if names is None:
        raise LabelError(f"{wanted}, not {shown}; class names are looked up in the list given with --classes NAME|FILE")
    raise LabelError(f"{wanted} or one of the {len(names)} class names given with --classes, not {shown}")


def _parse_json(content: bytes, key: str, names: Mapping[str, int] | None) -> int:
    if len(content) > MAX_JSON_BYTES:
        raise LabelError(f"is larger than the {MAX_JSON_BYTES} bytes of a description")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise LabelError(f"is not JSON ({str(error)[:100]})") from error
    label = _find_key(value, key)
    if label is None:
        raise MissingLabelError(f"must hold one integer under {key!r}, not null")
    if isinstance(label, str):
        return _look_up(label, names, f"must hold one integer under {key!r}", repr(label[:20]))
    if not isinstance(label, int) or isinstance(label, bool) or abs(label) >= 10**9:
        shown = f"a whole number of {label.bit_length()} bits" if type(label) is int else repr(str(label)[:20])
        raise LabelError(f"must hold one integer under {key!r}, not {shown}")
    return label


def _find_key(value: Any, key: str) -> Any:
    """Return what stands under a key, or under its pieces between dots; raises MissingLabelError."""
    if isinstance(value, dict) and key in value:
        return value[key]
    place, whole = value, key
    for piece in whole.split("."):
        if not isinstance(place, dict) or piece not in place:
            known = ", ".join(sorted(place)[:10]) if isinstance(place, dict) else "no keys at all"
            raise MissingLabelError(f"has no key {key!r} for the label; it has: {known}")
        place = place[piece]
    return place

"""`key=value` from a command line, set in values that were read from YAML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hornet.yaml_text import is_null, parse_yaml


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    """Set each dotted `key=value` (the value written as in YAML) in `values`; return what is wrong with any of them.

    `key+=[...]` adds to the list that is there.
    """
    return [problem for override in overrides for problem in _apply(values, override)]


def _apply(values: dict[str, Any], override: str) -> list[str]:
    key, separator, text = override.partition("=")
    if not separator or not key:
        return [f"{override!r}: an override is written key=value, with dots between nested keys"]
    value, problems = parse_yaml(text)
    if problems:
        return [f"{override!r}: {problem}" for problem in problems]
    *folders, leaf = key.split(".")
    target = values
    for folder in folders:
        inner = target.setdefault(folder, {})
        if is_null(inner):
            inner = target[folder] = {}
        if not isinstance(inner, dict):
            return [f"{override!r}: {folder} holds a value, not keys"]
        target = inner
    if leaf.endswith("+"):
        leaf, before = leaf[:-1], target.get(leaf[:-1])
        before = [] if is_null(before) else before
        if not isinstance(before, list) or not isinstance(value, list):
            return [f"{override!r}: += adds a list to a list"]
        value = [*before, *value]
    target[leaf] = value
    return []

"""YAML as it was written: text, lists and mappings, before anybody decides what a text means.

YAML itself would decide by the look of a text: 016 is 14, 1:30 is 90, `on` is true, 2026-11-25 a date. What a setting
means is for its field to say (field_types.py), so scalars keep their text here.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_CORE_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "map", "seq")}
_NULLS = ("", "~", "null", "Null", "NULL")
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]{1,4300}")  # Python reads and writes no longer ones; those look like infinity below
_RADIX = re.compile(r"0o[0-7]{1,3500}|0x[0-9a-fA-F]{1,3500}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class Scalar(str):
    """The text of a scalar, and whether it stood there without quotes: only such a text can mean null."""

    __slots__ = ("is_plain",)
    is_plain: bool

    def __new__(cls, text: str, *, is_plain: bool) -> Scalar:
        """Return the text itself, marked."""
        scalar = super().__new__(cls, text)
        scalar.is_plain = is_plain
        return scalar

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, bool]]:
        return (str(self),), {"is_plain": self.is_plain}


def parse_yaml(text: str) -> tuple[Any, list[str]]:
    """Return what `text` holds, as dicts, lists and Scalars, and a sentence for each thing that is wrong with it.

    Text that is not YAML gives None and one sentence; a key that stands twice keeps its first value.
    """
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        return None, [f"is not YAML: {' '.join(str(error).split())}"]
    if node is None:
        return Scalar("", is_plain=True), []
    problems: list[str] = []
    return _read_node(node, "", problems, set()), problems


def is_null(value: Any) -> bool:
    """Whether a value, as parsed or of Python's, is null."""
    return value is None or (isinstance(value, Scalar) and value.is_plain and value in _NULLS)


def resolve(value: Any) -> Any:
    """Return a parsed value in Python's types, each scalar by its look, as YAML 1.2's core schema has it."""
    if isinstance(value, dict):
        return {str(key): resolve(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [resolve(inner) for inner in value]
    if not isinstance(value, Scalar):
        return value
    text = str(value)
    if not value.is_plain:
        return text
    if is_null(value):
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _RADIX.fullmatch(text):
        return int(text, 0)
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return float(text) if _FLOAT.fullmatch(text) else text


def write_yaml(values: Any) -> str:
    """Return plain values as YAML, each text in quotes that some reader would take for something else."""
    return str(yaml.dump(values, Dumper=_Dumper, sort_keys=False))


class _Dumper(yaml.SafeDumper):
    """Quotes by YAML 1.1, as PyYAML does, and by 1.2."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    is_text = isinstance(resolve(Scalar(text, is_plain=True)), str)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_text else "'")


_Dumper.add_representer(str, _represent_text)


def _read_node(node: yaml.Node, key: str, problems: list[str], seen: set[int]) -> Any:
    line = node.start_mark.line + 1
    named = f"{key}: " if key else ""
    if node.tag not in _CORE_TAGS:
        problems.append(f"{named}the tag {node.tag} (line {line}) is not known here; leave it out")
    if isinstance(node, yaml.ScalarNode):
        return Scalar(node.value, is_plain=node.style is None)
    if id(node) in seen:  # an alias; one that holds itself would never end
        problems.append(f"{named}stands for the block of line {line} by an alias; write the block out")
        return {}
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        return [_read_node(inner, key, problems, seen) for inner in node.value]
    return _read_mapping(node, key, problems, seen)


def _read_mapping(node: yaml.Node, key: str, problems: list[str], seen: set[int]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            problems.append(f"{f'{key}: ' if key else ''}line {line} has a key that is no text")
            continue
        name = str(key_node.value)
        path = f"{key}.{name}" if key else name
        value = _read_node(value_node, path, problems, seen)
        if name in lines:
            where = f"line {line}" if line == lines[name] else f"lines {lines[name]} and {line}"
            problems.append(f"{path}: stands twice, on {where}; keep one of them")
        else:
            values[name], lines[name] = value, line
    return values

"""YAML files and key=value overrides into frozen dataclasses, or one ConfigError that lists every problem.

The only module that knows YAML and pydantic. Not here: any setting; each part declares its own dataclass.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import itertools
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from hornet.errors import UserError
from hornet.formats import CONFIG, read_run_values

Config = TypeVar("Config")

RESUMABLE = "is_resumable"


class ConfigError(UserError):
    """What is wrong with a config, every problem on a line of its own."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join([f"{source}: {_count(len(self.problems), 'problem')}", *self.problems]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What is known of one key of a config."""

    default: Any
    """As YAML or JSON hold it; dataclasses.MISSING where the key must be given."""
    is_resumable: bool
    """Whether a resumed run may give another value than it was begun with."""


def resumable(default: Any = dataclasses.MISSING) -> Any:
    """Declare a field that a run may be resumed with another value of.

    Most do not change what is learned (workers, cadence, paths). Some do, from the resumed step on, and are asked for
    in the middle of a run on purpose: the batches to leave out, a micro batch that fits other GPUs.
    """
    return dataclasses.field(default=default, metadata={RESUMABLE: True})


def load_config(config_class: type[Config], *, path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read `path`, apply dotted `key=value` overrides, check everything.

    Raises ConfigError with all the problems found: unknown keys, wrong types, missing keys, broken rules.
    """
    values = read_yaml(path)
    problems = apply_overrides(values, overrides)
    return _build(config_class, values, source=str(path), problems=problems)


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    """Set each dotted `key=value` (the value read as YAML) in `values`; return what is wrong with any of them.

    `key+=[...]` adds to the list that is there.
    """
    return [problem for override in overrides for problem in _apply(values, override)]


def build_config(config_class: type[Config], values: Mapping[str, Any], *, source: str) -> Config:
    """As load_config, from values already read (a run's config.yaml, a test's dict)."""
    return _build(config_class, dict(values), source=source, problems=[])


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the settings in a YAML file: one that a user wrote, or a run's own config.yaml of any release.

    Raises ConfigError if the file is missing, is not YAML, is not a mapping, or only another release can read it.
    """
    values = read_mapping(path)
    if CONFIG.key not in values:
        return values
    try:
        return read_run_values(values, source="this file")
    except UserError as error:
        raise ConfigError(str(path), [str(error)]) from error


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML mapping as it stands.

    Raises ConfigError if the file is missing, is not YAML or is not a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"is not YAML: {' '.join(str(error).split())}"]) from error
    if not isinstance(values, dict):
        raise ConfigError(str(path), ["holds no `key: value` pairs"])
    return values


def to_values(config: Any) -> dict[str, Any]:
    """Turn a config back into plain values, ready for YAML or JSON."""
    return _with_yaml_keys(TypeAdapter(type(config)).dump_python(config, mode="json"))


def to_yaml(config: Any, *, header: Mapping[str, Any] = MappingProxyType({})) -> str:
    """Write a config as YAML with every field, defaults included, below the entries of `header`."""
    return str(yaml.safe_dump({**header, **to_values(config)}, sort_keys=False))


def list_settings(config_class: type[Any], *, prefix: str = "", is_resumable: bool = False) -> dict[str, Setting]:
    """Return every key of a config, dotted; a section that may be null is a key too, beside those in it."""
    settings: dict[str, Setting] = {}
    hints = get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        key, inner = f"{prefix}{_yaml_key(field.name)}", _dataclass_in(hints[field.name])
        can_change = is_resumable or field.metadata.get(RESUMABLE, False)
        if inner is None or inner is not hints[field.name]:
            default = field.default
            if default is not dataclasses.MISSING:
                default = TypeAdapter(hints[field.name]).dump_python(default, mode="json")
            settings[key] = Setting(default=default, is_resumable=can_change)
        if inner is not None:
            settings |= list_settings(inner, prefix=f"{key}.", is_resumable=can_change)
    return settings


def describe_fields(config_class: type[Any], *, prefix: str = "") -> str:
    """Return the help text of a config: each key with its type, its default and the line beneath its field."""
    lines: list[str] = []
    docs = _field_docs(config_class)
    hints = get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        inner = _dataclass_in(hints[field.name])
        key = f"{prefix}{_yaml_key(field.name)}"
        default = "required" if field.default is dataclasses.MISSING else f"default {_show_default(field.default)}"
        doc = " ".join(docs.get(field.name, "").split())
        if inner is not None:
            lines += ["", f"{key}: {doc}", describe_fields(inner, prefix=f"{key}.")]
        else:
            lines.append(textwrap.fill(f"{key}  ({_type_name(field.type)}, {default})", 110, subsequent_indent="    "))
            lines.append(textwrap.fill(doc, 110, initial_indent="    ", subsequent_indent="    "))
    return "\n".join(lines)


def _yaml_key(field_name: str) -> str:
    """Return a field's key: a field may end in `_` where its key is a word of Python's (`from_` is `from`)."""
    return field_name.rstrip("_")


def _with_yaml_keys(values: dict[str, Any]) -> dict[str, Any]:
    return {
        _yaml_key(key): _with_yaml_keys(value) if isinstance(value, dict) else value for key, value in values.items()
    }


def _build(config_class: type[Config], values: dict[str, Any], *, source: str, problems: list[str]) -> Config:
    problems = problems + list(_unknown_keys(config_class, values, ""))
    known = _without_unknown(config_class, values)
    try:
        config = TypeAdapter(config_class).validate_python(known)
    except ValidationError as error:
        problems += [_sentence(detail) for detail in error.errors()]
    if problems:
        raise ConfigError(source, problems)
    return config


def _sentence(detail: Any) -> str:
    key = ".".join(_yaml_key(str(part)) for part in detail["loc"])
    if detail["type"] == "missing":
        return f"{key}: is missing"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":  # a rule of __post_init__: it names its own key
        return f"{key}.{message}" if key else message
    return f"{key}: {message}, not {detail['input']!r}"


def _apply(values: dict[str, Any], override: str) -> list[str]:
    key, separator, text = override.partition("=")
    if not separator or not key:
        return [f"{override!r}: an override is written key=value, with dots between nested keys"]
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return [f"{override!r}: the value is not YAML"]
    *folders, leaf = key.split(".")
    target = values
    for folder in folders:
        inner = target.setdefault(folder, {})
        if inner is None:
            inner = target[folder] = {}
        if not isinstance(inner, dict):
            return [f"{override!r}: {folder} holds a value, not keys"]
        target = inner
    if leaf.endswith("+"):
        leaf, before = leaf[:-1], target.get(leaf[:-1]) or []
        if not isinstance(before, list) or not isinstance(value, list):
            return [f"{override!r}: += adds a list to a list"]
        value = [*before, *value]
    target[leaf] = value
    return []


def _unknown_keys(config_class: type[Any], values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    hints = get_type_hints(config_class)
    names = {_yaml_key(field.name): field.name for field in dataclasses.fields(config_class)}
    for key, value in values.items():
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(names)}"
            yield f"{prefix}{key}: unknown key; {hint}"
            continue
        inner = _dataclass_in(hints[names[key]])
        if inner is not None and isinstance(value, Mapping):
            yield from _unknown_keys(inner, value, f"{prefix}{key}.")


def _without_unknown(config_class: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(config_class)
    names = {_yaml_key(field.name): field.name for field in dataclasses.fields(config_class)}
    known = {}
    for key, value in values.items():
        if key in names:
            inner = _dataclass_in(hints[names[key]])
            if inner is not None and isinstance(value, Mapping):
                value = _without_unknown(inner, value)
            known[names[key]] = value
    return known


def _dataclass_in(hint: Any) -> type[Any] | None:
    """Return the dataclass that `hint` is, or is an optional of."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next((option for option in options if dataclasses.is_dataclass(option)), None)  # type: ignore[return-value]


def flatten_values(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value of nested mappings with its dotted key."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten_values(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _field_docs(config_class: type[Any]) -> dict[str, str]:
    """Read the string beneath each field from the source; pydantic's own reader serves only its own classes."""
    docs: dict[str, str] = {}
    for owner in filter(dataclasses.is_dataclass, reversed(config_class.__mro__)):
        tree = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for field, doc in itertools.pairwise(tree.body):
            is_field = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if is_field and isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant):
                docs[field.target.id] = str(doc.value.value)  # type: ignore[attr-defined]
    return docs


def _show_default(value: Any) -> str:
    return "null" if value is None else str(value) if isinstance(value, Path) else repr(value)


def _type_name(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")

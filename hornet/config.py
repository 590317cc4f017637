"""YAML files and key=value overrides into frozen dataclasses, or one ConfigError that lists every problem.

Not here: any setting, each part declares its own dataclass; what a written value means, which is its field's to say
(field_types.py); YAML itself (yaml_text.py).
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import itertools
import textwrap
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from hornet.errors import UserError
from hornet.field_types import convert, describe, show, to_plain
from hornet.formats import CONFIG, read_run_values
from hornet.overrides import apply_overrides
from hornet.yaml_text import is_null, parse_yaml, resolve, write_yaml

Config = TypeVar("Config")

Check = Callable[[Any], Iterable[str]]
"""Gives a sentence for each thing that a config asks for in vain, beside the rules of its own."""

RESUMABLE = "is_resumable"

TASK = "task"
"""Key that says of which class a file is, where a command takes several."""


class ConfigError(UserError):
    """What is wrong with a config, every problem on a line of its own."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join([f"{source}: {_count(len(self.problems), 'problem')}", *self.problems]))


class Settings:
    """A config that has rules. All that are broken are said at once, whoever makes it."""

    def _find_problems(self) -> Iterator[str]:
        """Yield a sentence for each broken rule: the key, what is allowed, what was found.

        Reading a file, this is asked even where some fields could not be read; the first rule that needs one of them
        ends it.
        """
        yield from ()

    def __post_init__(self) -> None:
        problems = list(self._find_problems())
        if problems:
            raise ConfigError(type(self).__name__, problems)


def resumable(default: Any = dataclasses.MISSING) -> Any:
    """Declare a field that a run may be resumed with another value of.

    Most do not change what is learned (workers, cadence, paths). Some do, from the resumed step on, and are asked for
    in the middle of a run on purpose: the batches to leave out, a micro batch that fits other GPUs.
    """
    return dataclasses.field(default=default, metadata={RESUMABLE: True})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What is known of one key of a config."""

    default: Any
    """As YAML or JSON hold it; dataclasses.MISSING where the key must be given."""
    is_resumable: bool
    """Whether a resumed run may give another value than it was begun with."""


def load_config(
    config_class: type[Config] | Mapping[str, type[Config]],
    *,
    path: Path,
    overrides: Sequence[str] = (),
    checks: Sequence[Check] = (),
) -> Config:
    """Read `path`, apply dotted `key=value` overrides, check everything. Of several classes `task` names one.

    Raises ConfigError with all the problems found: keys that are unknown or stand twice, wrong types, missing keys,
    broken rules, and what `checks` find.
    """
    values, problems = read_settings(path, overrides)
    if isinstance(config_class, Mapping):
        config_class = choose_class(config_class, values, source=str(path))
    return build_config(config_class, values, source=str(path), problems=problems, checks=checks)


def choose_class(classes: Mapping[str, type[Config]], values: Mapping[str, Any], *, source: str) -> type[Config]:
    """Return the class of what the values have under `task`, the first where they have nothing; raises ConfigError."""
    task = values.get(TASK, next(iter(classes)))
    if str(task) not in classes:
        raise ConfigError(source, [f"{TASK}: must be {' or '.join(classes)}, not {show(task)}"])
    return classes[str(task)]


def read_settings(path: Path, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """Read a YAML mapping, its scalars as they are written, and apply `overrides`; return it and what is wrong with it.

    A run's own config.yaml, which any release may have written, is read as today's code would have written it.
    Raises ConfigError if the file is missing, is not YAML, is not a mapping, or only another release can read it.
    """
    values, problems = _read_mapping(path)
    if CONFIG.key in values:
        try:
            values = read_run_values(resolve(values), source="this file")
        except UserError as error:
            raise ConfigError(str(path), [*problems, str(error)]) from error
    return values, problems + apply_overrides(values, overrides)


def _read_mapping(path: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        values, problems = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), [f"is not YAML: {error}"]) from error
    if not isinstance(values, dict):
        raise ConfigError(str(path), problems or ["holds no `key: value` pairs"])
    return values, problems


def build_config(
    config_class: type[Config],
    values: Mapping[str, Any],
    *,
    source: str,
    problems: Sequence[str] = (),
    checks: Sequence[Check] = (),
) -> Config:
    """Make a config of values that were read before (by read_settings, or a test's dict).

    Each of `checks` is asked even where rules are broken or fields could not be read; it ends where it needs one of
    the latter. Raises ConfigError with `problems`, known before, and all that are found.
    """
    found = list(problems)
    config = _build(config_class, values, "", found)
    for check in checks:
        try:
            for problem in check(config):
                found.append(problem)
        except AttributeError:
            if not found:
                raise
    if found:
        raise ConfigError(source, found)
    return config


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping as it stands, in Python's types by the looks of each scalar: for files that to_yaml wrote.

    Raises ConfigError if the file is missing, is not YAML, is not a mapping or has a key twice.
    """
    values, problems = _read_mapping(path)
    if problems:
        raise ConfigError(str(path), problems)
    return dict(resolve(values))


def to_values(config: Any) -> dict[str, Any]:
    """Turn a config back into plain values, ready for YAML or JSON."""
    hints = _field_hints(type(config))
    values = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        is_inner = dataclasses.is_dataclass(value)
        values[_yaml_key(field.name)] = to_values(value) if is_inner else to_plain(value, hints[field.name])
    return values


def to_yaml(config: Any, *, header: Mapping[str, Any] = types.MappingProxyType({})) -> str:
    """Write a config as YAML with every field, defaults included, below `header`; load_config reads it back."""
    return write_yaml({**header, **to_values(config)})


def list_settings(config_class: type[Any], *, prefix: str = "", is_resumable: bool = False) -> dict[str, Setting]:
    """Return every key of a config, dotted; a section that may be null is a key too, beside those in it."""
    settings: dict[str, Setting] = {}
    hints = _field_hints(config_class)
    for field in dataclasses.fields(config_class):
        key, inner = f"{prefix}{_yaml_key(field.name)}", _dataclass_in(hints[field.name])
        can_change = is_resumable or field.metadata.get(RESUMABLE, False)
        if inner is None or inner is not hints[field.name]:
            default = field.default
            if default is not dataclasses.MISSING:
                default = to_plain(default, hints[field.name])
            settings[key] = Setting(default=default, is_resumable=can_change)
        if inner is not None:
            settings |= list_settings(inner, prefix=f"{key}.", is_resumable=can_change)
    return settings


def describe_fields(config_class: type[Any], *, prefix: str = "") -> str:
    """Return the help text of a config: each key with its type, its default and the line beneath its field."""
    lines: list[str] = []
    docs = _field_docs(config_class)
    hints = _field_hints(config_class)
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


def _field_hints(config_class: type[Any]) -> dict[str, Any]:
    return get_type_hints(config_class, include_extras=True)


def _build(config_class: type[Config], values: Mapping[str, Any], prefix: str, problems: list[str]) -> Config:
    """Return a config without the fields that could not be read, and add to `problems` why, and each broken rule."""
    num_before = len(problems)
    config = object.__new__(config_class)  # not by its constructor: rules are to be tried on what could be read, too
    names = [_yaml_key(field.name) for field in dataclasses.fields(config_class)]  # type: ignore[arg-type]
    problems += [_unknown_key(f"{prefix}{key}", str(key), names) for key in values if key not in names]
    hints, unreadable = _field_hints(config_class), []
    for field in dataclasses.fields(config_class):  # type: ignore[arg-type]
        try:
            value = _build_field(field, hints[field.name], values, prefix, problems)
            object.__setattr__(config, field.name, value)
        except _UnreadableError:
            unreadable.append(_yaml_key(field.name))
    if isinstance(config, Settings):
        try:
            for problem in config._find_problems():
                if problem.partition(":")[0] not in unreadable:  # where rules met the default
                    problems.append(f"{prefix}{problem}")
        except AttributeError:  # a rule about a field that could not be read, and has no default
            if len(problems) == num_before:
                raise
    return config


class _UnreadableError(Exception):
    """A field has no value; why is among the problems."""


def _build_field(
    field: dataclasses.Field[Any], hint: Any, values: Mapping[str, Any], prefix: str, problems: list[str]
) -> Any:
    key = f"{prefix}{_yaml_key(field.name)}"
    inner = _dataclass_in(hint)
    if _yaml_key(field.name) not in values:
        if field.default is not dataclasses.MISSING:
            return field.default
        if field.default_factory is not dataclasses.MISSING:
            return field.default_factory()
        if inner is not None:
            problems.append(f"{key}: is missing; give its keys, as {key}.KEY=VALUE")
            return object.__new__(inner)
        problems.append(f"{key}: is missing; give {key}=VALUE, {describe(hint)}")
        raise _UnreadableError
    value = values[_yaml_key(field.name)]
    if inner is not None and isinstance(value, Mapping):
        return _build(inner, value, f"{key}.", problems)
    if inner is not None:
        if is_null(value) and hint is not inner:
            return None
        problems.append(f"{key}: must hold keys, not {show(value)}")
        return object.__new__(inner)
    try:
        return convert(value, hint, key=key)
    except UserError as error:
        problems.append(str(error))
        raise _UnreadableError from None


def _unknown_key(path: str, key: str, names: Collection[str]) -> str:
    near = difflib.get_close_matches(key, names, n=1)
    hint = f"did you mean {path.removesuffix(key)}{near[0]}?" if near else f"known here: {', '.join(names)}"
    return f"{path}: unknown key; {hint}"


def _dataclass_in(hint: Any) -> type[Any] | None:
    """Return the dataclass that `hint` is, or is an optional of."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next((option for option in options if dataclasses.is_dataclass(option)), None)  # type: ignore[return-value]


def flatten_values(
    values: Mapping[str, Any], prefix: str = "", *, settings: Collection[str] = ()
) -> Iterator[tuple[str, Any]]:
    """Yield each value of nested mappings with its dotted key.

    One of the `settings` (list_settings) that is no section, but holds values by name, is taken whole.
    """
    for key, value in values.items():
        name = f"{prefix}{key}"
        is_whole = name in settings and not any(other.startswith(f"{name}.") for other in settings)
        if isinstance(value, Mapping) and not is_whole:
            yield from flatten_values(value, f"{name}.", settings=settings)
        else:
            yield name, value


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

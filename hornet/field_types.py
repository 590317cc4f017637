"""What a written value means, by the type of its field alone; the same for a YAML file, the command line and Python.

Numbers are finite and in plain decimal digits; text is taken as it is written, whatever it looks like; null is for
fields that may be none. In paths `~` and `$NAME` stand for what they mean in a shell.
"""

from __future__ import annotations

import math
import os
import re
import sys
import types
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hornet.errors import UserError
from hornet.yaml_text import Scalar, is_null, resolve

_EXPANDED = "~ and $NAME are expanded"
Location = Annotated[Path | str, _EXPANDED]
"""A path, or a URL: text in which `~` and `$NAME` are expanded."""
NameOrPath = Annotated[str, _EXPANDED]
"""A name that is known, or a path."""

Arguments = Annotated[Mapping[str, Any], "arguments"]
"""Values by name that somebody else's function takes: each is what it looks like to YAML."""

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_MAX_DIGITS = 18
"""Of a whole number: what 64 bits hold, whatever its digits."""
_FLOAT = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\}|(\$)|)")


class MisfitError(ValueError):
    """A value is not what its field holds; the text may say more, or be empty."""


def convert(value: Any, hint: Any, *, key: str) -> Any:
    """Return `value`, as parsed or of Python's, in the type of `hint`.

    Raises UserError, naming `key`, what is allowed and what was found.
    """
    try:
        return _convert(value, hint)
    except MisfitError as error:
        more = f" ({error})" if str(error) else ""
        raise UserError(f"{key}: must be {describe(hint)}, not {show(value)}{more}") from None


def to_plain(value: Any, hint: Any) -> Any:
    """Return a field's value for YAML or JSON, such that `convert` gives it again."""
    options = _list_options(hint)
    if isinstance(value, Path) or (isinstance(value, str) and any(_is_expanded(option) for option in options)):
        text = str(value).replace("$", "$$")
        return f"./{text}" if text.startswith("~") else text
    if isinstance(value, datetime):
        return value.isoformat()
    return _list_plainly(value)


def show(value: Any) -> str:
    """Return a value as a message quotes it."""
    if is_null(value):
        return "~" if value == "~" else "null"
    if isinstance(value, dict):
        return "keys"
    if isinstance(value, Scalar):
        return str(value) if value.is_plain and _FLOAT.fullmatch(value) else repr(str(value))
    return repr(resolve(value))


def expand(text: str) -> str:
    """Replace a leading `~` and each `$NAME` or `${NAME}`; `$$` is a dollar. Raises MisfitError if that cannot be."""
    if text.startswith("~"):
        try:
            home = str(Path(text.partition("/")[0]).expanduser())
        except RuntimeError:
            raise MisfitError("there is no such home folder; write ./~ for a name that begins with ~") from None
        text = home.replace("$", "$$") + text[len(text.partition("/")[0]) :]
    return _VARIABLE.sub(_look_up, text)


def _look_up(match: re.Match[str]) -> str:
    name, braced, dollar = match.groups()
    if dollar:
        return "$"
    name = name or braced
    if not name:
        raise MisfitError("write $NAME or ${NAME} for a variable, $$ for a dollar")
    if name not in os.environ:
        raise MisfitError(f"the variable {name} is not set; write $$ for a dollar")
    return os.environ[name]


def _convert(value: Any, hint: Any) -> Any:
    options = _list_options(hint)
    if type(None) in options:
        if is_null(value) and not (value == "~" and any(_is_path(option) for option in options)):
            return None
        if value == "~" and is_null(value):
            raise MisfitError("~ is null to YAML and home to a shell; write null or ~/")
        options = [option for option in options if option is not type(None)]
    misfit = MisfitError()
    for option in options:
        try:
            return _convert_to(option, value)
        except MisfitError as error:
            misfit = error
    raise misfit


def _convert_to(option: Any, value: Any) -> Any:
    origin = get_origin(option)
    if origin is Literal:
        return _choose(value, get_args(option))
    if origin is tuple:
        return _convert_items(value, get_args(option))
    if _is_expanded(option):
        return expand(str(value) if isinstance(value, Path) else _read_text(value, is_path=True))
    if option == Arguments:
        return _read_arguments(value)
    return _READERS[option](value)


def _choose(value: Any, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        try:
            if _READERS[type(choice)](value) == choice:
                return choice
        except MisfitError:
            continue
    raise MisfitError


def _convert_items(value: Any, hints: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise MisfitError
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if len(value) != len(hints):
        raise MisfitError
    return tuple(_convert(item, hint) for item, hint in zip(value, hints, strict=True))


def _read_text(value: Any, *, is_path: bool = False) -> str:
    if not isinstance(value, str) or (is_null(value) and not (is_path and value == "~")):
        raise MisfitError
    return str(value)


def _read_path(value: Any) -> Path:
    return value if isinstance(value, Path) else Path(expand(_read_text(value, is_path=True)))


def _read_arguments(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise MisfitError
    for name in value:
        if not str(name).isidentifier():
            raise MisfitError(f"{str(name)!r} is no name of an argument")
    arguments = {str(name): resolve(inner) for name, inner in value.items()}
    if not _is_finite(arguments):
        raise MisfitError("numbers must be finite")
    return arguments


def _is_finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _read_bool(value: Any) -> bool:
    value = resolve(Scalar(value, is_plain=True)) if isinstance(value, str) else value
    if not isinstance(value, bool):
        raise MisfitError
    return value


def _read_int(value: Any) -> int:
    if isinstance(value, str) and _INT.fullmatch(value):
        value = int(value[: _MAX_DIGITS + 2])  # long enough to be refused; Python has a limit of its own
    if not isinstance(value, int) or isinstance(value, bool):
        raise MisfitError
    if abs(value) >= 10**_MAX_DIGITS:
        raise MisfitError(f"it has more than {_MAX_DIGITS} digits")
    return value


def _read_float(value: Any) -> float:
    if isinstance(value, str) and _FLOAT.fullmatch(value):
        value = float(value)
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= sys.float_info.max:
        raise MisfitError
    return float(value)


def _read_time(value: Any) -> datetime:
    try:
        if isinstance(value, datetime):
            return value
        if isinstance(value, str) and not _SECONDS.fullmatch(value):
            return datetime.fromisoformat(value)
        return datetime.fromtimestamp(_read_float(value), tz=UTC)
    except (ValueError, OverflowError, OSError):
        raise MisfitError from None


_READERS: dict[Any, Callable[[Any], Any]] = {
    bool: _read_bool,
    int: _read_int,
    float: _read_float,
    str: _read_text,
    Path: _read_path,
    datetime: _read_time,
}
_DESCRIPTIONS = {
    bool: "true or false",
    int: "a whole number in plain decimal digits",
    float: "a finite number in plain decimal digits",
    str: "text",
    Path: "a path",
    datetime: "a time, such as 2026-11-22T18:00:00+01:00, or seconds since 1970",
    type(None): "null",
}


def describe(hint: Any) -> str:
    """Say what values a field takes: `true or false`, `a path or a URL`, its choices."""
    options = _list_options(hint)
    words: list[str] = []
    for option in options:
        origin = get_origin(option)
        if origin is Literal:
            words += [str(choice) for choice in get_args(option)]
        elif origin is tuple:
            words.append(_describe_items(get_args(option)))
        elif option == Arguments:
            words.append("values by name, such as {window_size: 8}")
        else:
            words.append(_DESCRIPTIONS.get(option, "a path or a URL" if option == Location else "a name or a path"))
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _describe_items(hints: tuple[Any, ...]) -> str:
    if hints[1] is Ellipsis:
        return f"a list, each of it {describe(hints[0])}"
    return f"a list of {len(hints)}, each of it {describe(hints[0])}"


def _list_options(hint: Any) -> list[Any]:
    return list(get_args(hint)) if get_origin(hint) in (Union, types.UnionType) else [hint]


def _is_expanded(option: Any) -> bool:
    return get_origin(option) is Annotated and _EXPANDED in get_args(option)


def _is_path(option: Any) -> bool:
    return option is Path or _is_expanded(option)


def _list_plainly(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _list_plainly(item) for key, item in value.items()}
    return [_list_plainly(item) for item in value] if isinstance(value, tuple | list) else value

"""The module of a user's own networks: where it is looked for, and what is said where it is not."""

from __future__ import annotations

import importlib.util
import os
import sys

from hornet.errors import UserError


def look_in_working_folder() -> str:
    """Put the folder where a command is given on Python's path, as Python's option -m does, and return it."""
    folder = os.getcwd()  # noqa: PTH109
    if folder not in sys.path:
        sys.path.append(folder)
    return folder


def require_module(name: str) -> None:
    """Raise UserError if there is no module of that dotted name, as far as can be known without importing any.

    That is its first part: what is in a package is the package's to say.
    """
    first = name.partition(".")[0]
    look_in_working_folder()
    if first not in sys.modules and importlib.util.find_spec(first) is None:
        raise UserError(explain_absent(first))


def explain_absent(name: str) -> str:
    """Say that a module, or a package above it, is not there."""
    return (
        f"model.module: there is no module {name!r} in {look_in_working_folder()} or on Python's path; give its dotted "
        "name, and start the command in the folder that holds it or set PYTHONPATH"
    )

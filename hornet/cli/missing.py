"""What to install when a library is not there: the sentence, from what the package itself declares."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distribution, requires

PACKAGE = "hornet-pretrain"
OURS = ("hornet", "pretrain", "finetune", "dense", "scaling")


def explain_missing(module: str, *, command: str, extra: str) -> str | None:
    """Return which libraries of `extra` are missing and how they are installed; None if `module` is one of ours."""
    top = module.partition(".")[0]
    if not top or top in OURS:
        return None
    repository = f"`pip install '.[{extra}]'` in the repository"
    missing = [text for text in list_requirements(_read_declared(), extra) if not _is_installed(text)]
    if not missing:
        return f"hornet {command} needs {top}, which is not installed; run {repository}, or install {top} by itself"
    names = ", ".join(_name(text) for text in missing)
    quoted = " ".join(f"'{text}'" for text in missing)
    return f"hornet {command} needs what is not installed ({names}); run `pip install {quoted}`, or {repository}"


def list_requirements(declared: Sequence[str], extra: str) -> Iterator[str]:
    """Yield what an installation with `extra` asks for, as `name>=1.0`: the base, the extra, and those it names."""
    for line in declared:
        text, _, marker = (part.strip() for part in line.partition(";"))
        wanted = re.search(r"extra == ['\"](.+?)['\"]", marker)
        if wanted is not None and wanted.group(1) != extra:
            continue
        others = re.fullmatch(rf"{PACKAGE}\[(.*)\]", text)
        if others is None:
            yield text
            continue
        for other in others.group(1).split(","):
            yield from (inner for inner in list_requirements(declared, other) if inner not in _base(declared))


def _base(declared: Sequence[str]) -> list[str]:
    return [line for line in declared if ";" not in line]


def _read_declared() -> list[str]:
    try:
        return requires(PACKAGE) or []
    except PackageNotFoundError:  # a checkout that is not installed
        return []


def _name(requirement: str) -> str:
    match = re.match(r"[\w.-]+", requirement)
    assert match is not None, requirement
    return match.group()


def _is_installed(requirement: str) -> bool:
    try:
        distribution(_name(requirement))
    except PackageNotFoundError:
        return False
    return True

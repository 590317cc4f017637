"""Tars named by a pattern or one by one, in one folder or several."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from braceexpand import braceexpand

from hornet.errors import UserError
from hornet.shards.indexing.folder import WILDCARDS, TarFolder, open_tar_folder
from hornet.shards.manifest import is_url

Tars = Path | str | Sequence[str]
"""A pattern with braces or wildcards, several with `::` between, or a list of such."""


@dataclass(frozen=True, kw_only=True)
class TarList:
    """Tars in the order in which they were named."""

    folder: TarFolder
    """The folder above all of them."""
    shards: tuple[str, ...]
    """Names relative to it."""


def is_tar_list(place: Tars) -> bool:
    """Whether `place` names tars, and not the folder of a set; what is a folder under that very name is one."""
    if not isinstance(place, Path | str):
        return True
    text = str(place)
    if not is_url(text) and Path(text).is_dir():
        return False
    return "::" in text or bool((WILDCARDS | {"{"}) & set(text)) or text.endswith(".tar")


def list_tars(place: Tars) -> TarList:
    """Return the tars that `place` stands for. Braces stand in any part of a name, wildcards in the last.

    Raises UserError if it stands for none, names one twice, or names tars of several servers.
    """
    patterns = str(place).split("::") if isinstance(place, Path | str) else [str(part) for part in place]
    commands = [pattern for pattern in patterns if pattern.startswith("pipe:")]
    if commands:
        raise UserError(
            f"{commands[0]}: no list of tars may name a command to run; give the URLs, and the command as "
            "RemoteConfig(command='aws s3 cp {url} -', cache=...)"
        )
    found = [tar for pattern in patterns for tar in _expand(pattern)]
    if not found:
        raise UserError(f"{place}: names no tar that is there; give a pattern such as 'tars/set-{{000..127}}.tar'")
    repeated = [tar for tar, count in Counter(found).items() if count > 1]
    if repeated:
        raise UserError(f"{repeated[0]}: is named twice, and each sample comes once in an epoch; name it once")
    base = _find_folder(found)
    return TarList(folder=open_tar_folder(base), shards=tuple(tar[len(base.rstrip("/")) + 1 :] for tar in found))


def _expand(pattern: str) -> list[str]:
    if not is_url(pattern):
        pattern = os.path.abspath(pattern)  # noqa: PTH100  Path.resolve would follow links, and names are promises
        if Path(pattern).is_file():
            return [pattern]
    try:
        names = list(braceexpand(pattern))
    except ValueError as error:
        raise UserError(f"{pattern}: is no pattern of tars ({error})") from error
    tars: list[str] = []
    for name in names:
        head, _, tail = name.rpartition("/")
        if not WILDCARDS & set(tail):
            tars.append(name)
            continue
        folder = open_tar_folder(head or "/")
        tars += [folder.locate(found) for found in folder.list(tail)]
    return tars


def _find_folder(tars: Sequence[str]) -> str:
    """Return the folder above all, without the last slash; raises UserError if there is none."""
    heads = [tar.rpartition("/")[0].split("/") for tar in tars]
    common = [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*heads, strict=False))]
    remote = [is_url(tar) for tar in tars]
    if any(remote) and (not all(remote) or len(common) < 3):
        other = next(tar for tar in tars if tar.split("/")[:3] != tars[0].split("/")[:3])
        raise UserError(f"{tars[0]} and {other}: the tars of a set must be on one server, or all on local disks")
    return "/".join(common) or "/"

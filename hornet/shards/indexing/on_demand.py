"""Indexes that are made the first time tars are opened, once a node, and kept in a folder of the user's choice."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hornet.errors import UserError
from hornet.shards.indexing.index_set import IndexPlan, index_folder
from hornet.shards.indexing.tar_list import Tars, list_tars
from hornet.shards.manifest import MANIFEST_NAME

INDEX_HOME = Path("~/.cache/hornet/indexes")


def find_home(index: Path | str | None) -> Path:
    """Return the folder for indexes: the user's, or INDEX_HOME."""
    return Path(index or INDEX_HOME).expanduser()


@contextmanager
def locked(home: Path, name: str) -> Iterator[None]:
    """Let one process of the node at a time make the index of a name. Raises UserError if `home` cannot be written."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / f"{name}.lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)  # Lustre may be mounted without locks
    except OSError as error:
        raise UserError(f"{home}: cannot be written to ({error.strerror}); give another folder as index") from error
    with lock:
        yield


def describe_tars(place: Tars, split_name: str, *, index: Path | str | None) -> Path:
    """Return the folder of a set made of the tars that `place` names (see `list_tars`); index them if they are new.

    Headers and labels are read, as `index_folder` does without options. Raises UserError.
    """
    tars = list_tars(place)
    parts = [split_name, [tars.folder.locate(shard) for shard in tars.shards]]
    name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]
    home = find_home(index)
    made = home / name / MANIFEST_NAME
    if made.exists():  # perhaps by somebody else, whose folder may only be read
        return made.parent
    with locked(home, name):
        if not made.exists():
            plan = IndexPlan(
                folder=tars.folder.place,
                output=made.parent,
                split=split_name,
                pattern=tars.shards,
                classes=None,
                name=None,
                num_workers=None,
            )
            index_folder(plan)
    return made.parent

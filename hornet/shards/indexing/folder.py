"""A folder of tars, local or at a URL, and the indexing of many of them at once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from braceexpand import braceexpand
from tqdm import tqdm

from hornet.errors import UserError
from hornet.shards.index import ShardIndex, index_source, index_tar
from hornet.shards.indexing.remote_folder import RemoteFolder
from hornet.shards.manifest import MANIFEST_NAME, is_url, parse_info, read_info
from hornet.shards.processes import count_cores, map_in_processes

WILDCARDS = set("*?[")
NUM_REMOTE_WORKERS = 32  # threads that wait for answers, not for cores


@dataclass(frozen=True, kw_only=True)
class TarFolder:
    """Where tars are."""

    place: str
    """Path or URL, as given."""
    remote: RemoteFolder | None
    """None if it is a path."""

    @property
    def name(self) -> str:
        """The last part of the place."""
        return self.place.rstrip("/").rsplit("/", 1)[-1] if self.remote else Path(self.place).resolve().name

    def locate(self, name: str) -> str:
        """Return the path or URL of a file in it."""
        return self.remote.locate(name) if self.remote else str(Path(self.place) / name)

    def locate_from(self, output: Path) -> str:
        """Return the folder as a manifest in `output` names it."""
        if self.remote:
            return self.remote.url
        folder = Path(self.place).resolve()
        return "." if folder == output.resolve() else str(folder)

    def read_info(self) -> dict[str, Any]:
        """Return its _info.json, or one without splits if there is none."""
        if self.remote:
            content = self.remote.read(MANIFEST_NAME)
            return parse_info(content, source=self.locate(MANIFEST_NAME)) if content is not None else {"splits": {}}
        path = Path(self.place) / MANIFEST_NAME
        return read_info(path) if path.exists() else {"splits": {}}

    def list(self, patterns: str) -> list[str]:
        """Return the names that shell patterns, with spaces between them, stand for, each once.

        Braces stand for their names whether such files are there or not, so a server need not list them; `*`, `?` and
        `[` for what is there, sorted.
        """
        found: dict[str, None] = {}
        for pattern in (one for text in patterns.split() for one in braceexpand(text)):
            found |= dict.fromkeys(self._find(pattern) if WILDCARDS & set(pattern) else [pattern])
        return list(found)

    def _find(self, pattern: str) -> Iterable[str]:
        if self.remote:
            return self.remote.list(pattern)
        return sorted(path.name for path in Path(self.place).glob(pattern))


def open_tar_folder(place: Path | str) -> TarFolder:
    """Take a path or a URL; raises UserError if a package for the URL is missing."""
    text = str(place)
    return TarFolder(place=text, remote=RemoteFolder(text) if is_url(text) else None)


def split_pattern(place: str) -> tuple[str, str | None]:
    """Split `FOLDER/set-{000..127}.tar` or `s3://bucket/set-*.tar` into folder and pattern; None if it is a folder.

    Raises UserError if folders are given by a pattern too.
    """
    head, _, tail = place.rpartition("/")
    if not (WILDCARDS | {"{"}) & set(place) and not place.endswith(".tar"):
        return place, None
    if (WILDCARDS | {"{"}) & set(head):
        raise UserError(f"{place}: patterns and braces can stand in the last part only; index each folder by itself")
    return head or ("/" if place.startswith("/") else "."), tail


def index_tars(
    folder: TarFolder,
    shards: Sequence[str],
    *,
    title: str,
    checksums: bool,
    label_key: str | None,
    num_workers: int | None,
) -> list[ShardIndex]:
    """Index tars in their order, many at once: local ones by processes, remote ones by threads.

    `num_workers` None stands for one process a core, or 32 threads. Raises UserError at the first bad tar.
    """
    index_one = partial(_index_one, folder, checksums=checksums, label_key=label_key)
    found: list[ShardIndex] = []
    if folder.remote:
        results = _map_in_threads(index_one, shards, folder.remote, num_workers or NUM_REMOTE_WORKERS)
    else:
        results = map_in_processes(index_one, shards, num_workers=num_workers or count_cores())
    with tqdm(total=len(shards), desc=title, unit=" shards", disable=None) as bar:
        started, num_samples = time.monotonic(), 0
        for index in results:
            found.append(index)
            num_samples += len(index.records)
            bar.set_postfix_str(f"{num_samples / (time.monotonic() - started):.0f} samples/s", refresh=False)
            bar.update()
    return found


def _index_one(folder: TarFolder, shard: str, *, checksums: bool, label_key: str | None) -> ShardIndex:
    if folder.remote is None:
        return index_tar(Path(folder.place) / shard, checksums=checksums, label_key=label_key)
    source = folder.remote.open(shard, whole=checksums)
    return index_source(source, name=folder.locate(shard), checksums=checksums, label_key=label_key)


def _map_in_threads(
    index_one: Any, shards: Sequence[str], remote: RemoteFolder, num_workers: int
) -> Iterator[ShardIndex]:
    executor = ThreadPoolExecutor(max_workers=min(num_workers, len(shards)))
    try:
        yield from executor.map(index_one, shards)
    except BaseException:
        remote.stop()
        raise
    finally:
        executor.shutdown(cancel_futures=True)

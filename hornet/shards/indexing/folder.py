"""A folder of tars, local or at a URL, and the indexing of many of them at once."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from braceexpand import braceexpand
from tqdm import tqdm

from hornet.errors import UserError
from hornet.shards.index import ShardIndex, index_source
from hornet.shards.indexing.remote_folder import RemoteFolder
from hornet.shards.manifest import MANIFEST_NAME, is_url, parse_info, read_info
from hornet.shards.processes import count_cores, map_in_processes
from hornet.shards.sample_parts import SampleRule
from hornet.shards.tar import LocalTar, TarSource

WILDCARDS = set("*?[")
LIKE_TARS = re.compile(r"\.(tar|tar\.\w+|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)
NUM_REMOTE_WORKERS = 32  # threads that wait for answers, not for cores


class Scan(Protocol):
    """What one pass over a tar makes of it; raises UserError with `name` in it."""

    def __call__(self, source: TarSource, *, name: str) -> ShardIndex:
        """Return the index of the tar, which messages call `name`."""


@dataclass(frozen=True, kw_only=True)
class TarFolder:
    """A folder of tars, here or on a server."""

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

    def list(self, patterns: str | Sequence[str]) -> list[str]:
        """Return the names that a shell pattern, or each of several, stands for, each name once.

        Braces stand for their names whether such files are there or not, so a server need not list them; `*`, `?` and
        `[` for what is there, sorted, hidden files left out. A local file of that very name goes before. Patterns may
        hold folders. Raises UserError for patterns that are none.
        """
        found: dict[str, None] = {}
        for pattern in (patterns,) if isinstance(patterns, str) else patterns:
            for name in self._expand(pattern):
                found |= dict.fromkeys(self._find(name) if WILDCARDS & set(name) else [name])
        return list(found)

    def list_similar(self, shards: Sequence[str]) -> tuple[str, ...]:
        """Return tars, packed ones too, in a local folder and the folders in it that are not among `shards`."""
        if self.remote:
            return ()
        place, taken = Path(self.place), set(shards)
        names = (path.relative_to(place) for pattern in ("*", "*/*") for path in place.glob(pattern))
        found = [
            name for name in names if LIKE_TARS.search(name.name) and not any(part[0] == "." for part in name.parts)
        ]
        return tuple(sorted(str(name) for name in found if str(name) not in taken))

    def _expand(self, pattern: str) -> Iterator[str]:
        if not self.remote and pattern and (Path(self.place) / pattern).is_file():
            yield pattern
            return
        try:
            yield from braceexpand(pattern)
        except ValueError as error:
            raise UserError(f"--pattern {pattern!r}: is no pattern of names ({error})") from error

    def _find(self, pattern: str) -> Iterable[str]:
        if self.remote:
            return self.remote.list(pattern)
        if not self.remote and (Path(self.place) / pattern).is_file():
            return [pattern]
        place, wants_hidden = Path(self.place), pattern.rpartition("/")[2].startswith(".")
        try:
            paths = sorted(place.glob(pattern))
        except (ValueError, NotImplementedError) as error:
            raise UserError(
                f"--pattern {pattern!r}: must be a pattern of names below {self.place} ({error})"
            ) from error
        return [str(path.relative_to(place)) for path in paths if wants_hidden or not path.name.startswith(".")]


def open_tar_folder(place: Path | str) -> TarFolder:
    """Take a path or a URL; raises UserError if a package for the URL is missing."""
    text = str(place)
    return TarFolder(place=text, remote=RemoteFolder(text) if is_url(text) else None)


def split_pattern(place: str) -> tuple[str, str | None]:
    """Split `FOLDER/set-{000..127}.tar` or `s3://bucket/set-*.tar` into folder and pattern; None if it is a folder.

    What is there under that very name, brackets and all, is taken for it. Raises UserError if folders are given by a
    pattern too.
    """
    head, _, tail = place.rpartition("/")
    is_pattern = bool((WILDCARDS | {"{"}) & set(place)) or place.endswith(".tar")
    if not is_pattern or (not is_url(place) and Path(place).is_dir()):
        return place, None
    if (WILDCARDS | {"{"}) & set(head) and (is_url(place) or not Path(head).is_dir()):
        raise UserError(
            f"{place}: patterns and braces can stand in the last part only; give the folder above all, and the rest "
            "with --pattern, or index each folder by itself"
        )
    return head or ("/" if place.startswith("/") else "."), tail


def index_tars(
    folder: TarFolder,
    shards: Sequence[str],
    *,
    title: str,
    checksums: bool,
    rule: SampleRule,
    num_workers: int | None,
) -> list[ShardIndex]:
    """Index tars in their order, many at once: local ones by processes, remote ones by threads.

    `num_workers` None stands for one process a core, or 32 threads. Raises UserError at the first bad tar.
    """
    return scan_tars(
        folder,
        shards,
        partial(index_source, checksums=checksums, rule=rule),
        title=title,
        whole=checksums,
        num_workers=num_workers,
    )


def scan_tars(
    folder: TarFolder,
    shards: Sequence[str],
    scan: Scan,
    *,
    title: str,
    whole: bool,
    num_workers: int | None,
) -> list[ShardIndex]:
    """Return what `scan(source, name=...)` finds in each tar, in their order; `whole` says that it reads every byte.

    As `index_tars`. `scan` goes to the processes by pickle.
    """
    scan_one = partial(_scan_one, folder, scan=scan, whole=whole)
    found: list[ShardIndex] = []
    if folder.remote:
        results = _map_in_threads(scan_one, shards, folder.remote, num_workers or NUM_REMOTE_WORKERS)
    else:
        results = map_in_processes(scan_one, shards, num_workers=num_workers or count_cores())
    with tqdm(total=len(shards), desc=title, unit=" shards", disable=None) as bar:
        started, num_samples = time.monotonic(), 0
        for index in results:
            found.append(index)
            num_samples += len(index.records)
            bar.set_postfix_str(f"{num_samples / (time.monotonic() - started):.0f} samples/s", refresh=False)
            bar.update()
    return found


def _scan_one(folder: TarFolder, shard: str, *, scan: Scan, whole: bool) -> ShardIndex:
    if folder.remote is not None:
        return scan(folder.remote.open(shard, whole=whole), name=folder.locate(shard))
    path = Path(folder.place) / shard
    try:
        with LocalTar(path, sparsely=not whole) as source:
            return scan(source, name=str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _map_in_threads(
    scan_one: Any, shards: Sequence[str], remote: RemoteFolder, num_workers: int
) -> Iterator[ShardIndex]:
    executor = ThreadPoolExecutor(max_workers=min(num_workers, len(shards)))
    try:
        yield from executor.map(scan_one, shards)
    except BaseException:
        remote.stop()
        raise
    finally:
        executor.shutdown(cancel_futures=True)

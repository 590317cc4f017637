"""Bytes from http(s)://, s3://, gs:// and hf://, asked for again until they come or a deadline has passed."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hornet.config import Settings, resumable
from hornet.errors import UserError

INSTALL = {"http": "'fsspec[http]'", "https": "'fsspec[http]'", "s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub"}

FIRST_WAIT_SECONDS, MAX_WAIT_SECONDS = 0.5, 30.0
MAX_SHORT_ANSWERS = 3
"""So often may fewer bytes come than were asked for; then the file itself is taken to be short."""
MAX_TRY_SECONDS = 30.0
"""For one answer, of 8 MiB at most: connections die without a word."""
PIECE_BYTES = 8 << 20
PERMANENT = (401, 403, 404, 410)
NUM_THREADS = 16  # requests of one process under way at once; they wait, they do not compute


@dataclass(frozen=True, kw_only=True)
class RemoteConfig(Settings):
    """How tars at a URL are read; of no effect where they are local."""

    cache: Path | None = resumable(None)
    """Local folder for whole tars, shared by all runs and ranks of a node; null reads each sample from the server."""
    cache_gigabytes: float = resumable(100.0)
    """Size the cache may have, 10^9 bytes; what was not used for longest goes first."""
    deadline_seconds: float = resumable(300.0)
    """How long a request is repeated before the run ends."""
    command: str | None = resumable(None)
    """Shell command that writes the tar at {url} to its output, such as `aws s3 cp {url} -`, for servers that are
    read in no other way; needs the cache. Runs on this machine: set it only to what you would type."""

    def __post_init__(self) -> None:
        if self.cache is not None:  # in programs it is a text as often as a Path
            object.__setattr__(self, "cache", Path(self.cache).expanduser())
        super().__post_init__()

    def _find_problems(self) -> Iterator[str]:
        if self.cache_gigabytes <= 0:
            yield f"cache_gigabytes: must be over 0, not {self.cache_gigabytes}"
        if self.deadline_seconds <= 0:
            yield f"deadline_seconds: must be over 0, not {self.deadline_seconds}"
        if self.command is not None and (self.cache is None or "{url}" not in self.command):
            yield "command: must hold {url}, and needs `cache`, a folder for the tars it writes"


class Patience:
    """Repeats what fails for a while: waits longer each time, with some chance in it, up to a deadline."""

    def __init__(
        self,
        deadline_seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._deadline_seconds = deadline_seconds
        self._clock = clock
        self._sleep = sleep
        self.num_retries = 0
        """So far, over all requests."""

    def repeat(self, url: str, request: Callable[[], bytes]) -> bytes:
        """Return what `request` returns. Raises UserError: at once if trying again cannot help, else at the deadline.

        Raises FileNotFoundError as it comes.
        """
        started = self._clock()
        wait = FIRST_WAIT_SECONDS
        while True:
            try:
                return request()
            except (FileNotFoundError, UserError):
                raise
            except Exception as error:  # aiohttp, botocore and others have errors of their own
                passed = self._clock() - started
                if isinstance(error, PermissionError) or getattr(error, "status", None) in PERMANENT:
                    raise UserError(f"{url}: refused ({_say(error)}); check the address and the keys") from error
                if passed + wait > self._deadline_seconds:
                    raise UserError(
                        f"{url}: cannot be read, tried for {passed:.0f} s ({_say(error)}); start again when the server "
                        "answers, a run goes on from its last checkpoint"
                    ) from error
                self.num_retries += 1
                self._sleep(wait * random.SystemRandom().uniform(0.5, 1.0))
                wait = min(2 * wait, MAX_WAIT_SECONDS)


class RemoteFiles:
    """Ranges of remote files. May be carried over a fork: each process opens connections of its own."""

    def __init__(self, config: RemoteConfig) -> None:
        self._try_seconds = min(MAX_TRY_SECONDS, config.deadline_seconds / 4)
        self._patience = Patience(config.deadline_seconds)
        self._lock = threading.Lock()
        self._process = -1
        self._systems: dict[str, Any] = {}
        self._executor: ThreadPoolExecutor | None = None

    def read_all(self, url: str) -> bytes:
        """Return a whole file, asked for in pieces; who needs all of it has its checksum. Raises as `read`.

        Raises FileNotFoundError if it is not there.
        """
        pieces: list[bytes] = []
        while not pieces or len(pieces[-1]) == PIECE_BYTES:
            start = len(pieces) * PIECE_BYTES
            pieces.append(self._patience.repeat(url, partial(self._read_once, url, start, start + PIECE_BYTES)))
        return b"".join(pieces)

    def read(self, url: str, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop` (excluded); fewer only if the file ends before.

        Raises UserError: it is not there, access is refused, or the server did not answer until the deadline.
        """
        num_short = 0

        def request() -> bytes:
            nonlocal num_short
            content = self._read_once(url, start, stop)
            if len(content) > stop - start:
                raise UserError(f"{url}: the server sends whole files where a part is asked for (no HTTP ranges)")
            num_short += len(content) < stop - start
            if len(content) == stop - start or num_short >= MAX_SHORT_ANSWERS:
                return content
            raise OSError(f"{len(content)} bytes came where {stop - start} were asked for")

        try:
            return self._patience.repeat(url, request)
        except FileNotFoundError as error:
            raise UserError(f"{url}: is not there; is the manifest of the same version as the tars?") from error

    def read_many(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """Return what `read` does for each (url, start, stop), many at a time."""
        self._open_process()
        assert self._executor is not None
        return list(self._executor.map(lambda part: self.read(*part), ranges))

    def _read_once(self, url: str, start: int, stop: int) -> bytes:
        """Make one request; no bytes come from behind a file's end."""
        try:
            return self._call(url, start=start, end=stop)
        except Exception as error:
            if _is_beyond_the_end(error):
                return b""
            raise

    def _call(self, url: str, *, start: int, end: int) -> bytes:
        import fsspec.asyn

        files = self._find_system(url)
        path = url if url.startswith("http") else files._strip_protocol(url)
        if not getattr(files, "async_impl", False):  # hf:// so far
            content = files.cat_file(path, start=start, end=end)
        else:
            read = partial(_read_http_range, files) if url.startswith("http") else files._cat_file
            try:
                content = fsspec.asyn.sync(files.loop, read, path, timeout=self._try_seconds, start=start, end=end)
            except fsspec.asyn.FSTimeoutError as error:
                raise TimeoutError(f"no whole answer within {self._try_seconds:.0f} s") from error
        return bytes(content)

    def _find_system(self, url: str) -> Any:
        self._open_process()
        scheme = url.partition("://")[0]
        with self._lock:
            if scheme not in self._systems:
                self._systems[scheme] = open_file_system(url)
            return self._systems[scheme]

    def _open_process(self) -> None:
        if self._process != os.getpid():  # the first call, or the first behind a fork
            self._lock = threading.Lock()
            self._systems = {}
            self._executor = ThreadPoolExecutor(NUM_THREADS)
            self._process = os.getpid()


_NEVER_COLLECTED: list[Any] = []
"""Every file system that was opened. A fork shares its parent's epoll: if it collected the parent's event loop or
connections, their end there would take them out of the parent's epoll, whose requests then wait for nothing."""


def open_file_system(url: str) -> Any:
    """Return fsspec's file system for a URL; raises UserError if the package for it is missing."""
    scheme = url.partition("://")[0]
    try:
        import fsspec

        system = fsspec.core.url_to_fs(url)[0]
        if not any(system is opened for opened in _NEVER_COLLECTED):
            _NEVER_COLLECTED.append(system)
        return system
    except ImportError as error:
        package = INSTALL.get(scheme, "fsspec")
        raise UserError(
            f"{url}: a package that reads {scheme}:// is not installed ({error}); run `pip install {package}`"
        ) from error
    except ValueError as error:
        raise UserError(f"{url}: {error}; http(s)://, s3://, gs:// and hf:// are known") from error


def _is_beyond_the_end(error: Exception) -> bool:
    """Whether a server says that the file ends before the part asked for: HTTP's 416; s3fs makes EINVAL of it."""
    return getattr(error, "status", None) == 416 or getattr(error, "errno", None) == errno.EINVAL


async def _read_http_range(files: Any, url: str, *, start: int, end: int) -> bytes:
    """As fsspec's `_cat_file`, but a server that sends the whole tar instead is refused before it does."""
    settings = dict(files.kwargs)
    headers = {**settings.pop("headers", {}), "Range": f"bytes={start}-{end - 1}"}
    session = await files.set_session()
    async with session.get(files.encode_url(url), headers=headers, **settings) as answer:
        files._raise_not_found_for_status(answer, url)
        num_bytes = answer.content_length
        if answer.status == 200 and (start > 0 or num_bytes is None or num_bytes > end):  # Apache, asked for all of it
            raise UserError(
                f"{url}: the server sends whole files where a part is asked for (no HTTP ranges); copy the tars to a "
                "folder, or serve them by another server"
            )
        content: bytes = await answer.read()
        return content


def _say(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:200]

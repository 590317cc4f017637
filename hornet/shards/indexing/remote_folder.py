"""Tars on http(s)://, s3://, gs:// or hf://, read by ranges through fsspec: headers and labels, not payloads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from hornet.errors import UserError
from hornet.shards.remote.files import PERMANENT, open_file_system
from hornet.shards.tar import TarSource

READ_AHEAD_BYTES = 8192
"""The small members between two images (.json, .cls, their headers) come with one request: 2.5 to 5.6 KiB."""
WHOLE_READ_AHEAD_BYTES = 4 << 20
NUM_TRIES_AT_FIRST, NUM_TRIES = 4, 12
"""Of a server that has not answered yet, whose address may be wrong, and of one that has: for 4 seconds, for 3 minutes.
14 million requests take hours, and a failure of the last costs all."""
FIRST_WAIT_SECONDS, MAX_WAIT_SECONDS = 0.5, 30.0
"""Doubled at each further try."""


class RemoteFolder:
    """A folder of tars at a URL; its methods may be called from many threads."""

    def __init__(self, url: str) -> None:
        """Open it; raises UserError if a package that reads such URLs is missing."""
        self.url = url.rstrip("/")
        scheme = url.partition("://")[0]
        self._files: Any = open_file_system(self.url)
        self._is_http = scheme in ("http", "https")
        self._stopped = threading.Event()
        self._has_answered = False

    def locate(self, name: str) -> str:
        """Return the URL of a file of the folder."""
        return f"{self.url}/{name}"

    def read(self, name: str) -> bytes | None:
        """Return a small file's content; None if it is not there."""
        url = self.locate(name)
        try:
            return bytes(self._repeat(url, lambda: self._files.cat_file(self._path(url))))
        except FileNotFoundError:
            return None

    def list(self, pattern: str) -> list[str]:
        """Return the sorted names that match a shell pattern, as the server lists them; hidden ones are left out.

        Folders before the last `/` are folders of the server, not patterns. Raises UserError.
        """
        folder, slash, pattern = pattern.rpartition("/")
        if any(char in folder for char in "*?["):
            raise UserError(
                f"{self.url}/{folder}: `*`, `?` and `[` can stand in the last part of a remote pattern only"
            )
        place = self.locate(folder) if slash else self.url
        try:
            paths = self._repeat(place, lambda: self._files.ls(self._path(place + "/"), detail=False))
        except FileNotFoundError as error:
            raise UserError(
                f"{place}: is not there, or the server does not list it; give a folder with an _info.json"
            ) from error
        names = {str(path).partition("?")[0].rstrip("/").rsplit("/", 1)[-1] for path in paths}
        found = (name for name in names if fnmatchcase(name, pattern) and (name[0] != "." or pattern[0] == "."))
        return sorted(folder + slash + name for name in found)

    def open(self, name: str, *, whole: bool) -> TarSource:
        """Open a tar for reading by ranges; `whole` if all of it will be read. Raises UserError."""
        url = self.locate(name)
        try:
            info = self._repeat(url, lambda: self._files.info(self._path(url)))
        except FileNotFoundError as error:
            raise UserError(f"{url}: cannot be found; is _info.json of the same version as the tars?") from error
        if info.get("size") is None or info.get("partial") is False:
            raise UserError(no_ranges(url))
        known = {"size": info["size"]} if self._is_http else {}  # else fsspec asks for it again
        file = self._files.open(self._path(url), "rb", cache_type="none", **known)
        ahead = WHOLE_READ_AHEAD_BYTES if whole else READ_AHEAD_BYTES
        return RangeReader(lambda start, stop: self._fetch(url, file, start, stop), size=info["size"], ahead=ahead)

    def stop(self) -> None:
        """Make every later read fail: nobody waits for it any more."""
        self._stopped.set()

    def _path(self, url: str) -> str:
        return str(self._files._strip_protocol(url)) if not self._is_http else url

    def _fetch(self, url: str, file: Any, start: int, stop: int) -> bytes:
        def read() -> bytes:
            file.seek(start)
            try:
                content = bytes(file.read(stop - start))
            except ValueError as error:  # fsspec notices an answer of the whole file, before reading it
                raise UserError(no_ranges(url)) from error
            if len(content) != stop - start:
                raise OSError(f"{len(content)} bytes came where {stop - start} were asked for")
            return content

        content: bytes = self._repeat(url, read)
        return content

    def _repeat(self, url: str, request: Callable[[], Any]) -> Any:
        """Make a request, again after a failure; raises FileNotFoundError at once and UserError at the end."""
        for number in range(NUM_TRIES):
            if self._stopped.is_set():
                raise UserError(f"{url}: no longer read, after an error elsewhere")
            try:
                answer = request()
                self._has_answered = True
                return answer
            except (FileNotFoundError, UserError):
                raise
            except Exception as error:  # aiohttp, botocore and others have errors of their own
                is_refused = isinstance(error, PermissionError) or getattr(error, "status", None) in PERMANENT
                if is_refused or number + 1 >= (NUM_TRIES if self._has_answered else NUM_TRIES_AT_FIRST):
                    text = str(error) or type(error).__name__
                    raise UserError(f"{url}: cannot be read, tried {number + 1} times ({text[:200]})") from error
                self._stopped.wait(min(FIRST_WAIT_SECONDS * 2**number, MAX_WAIT_SECONDS))
        raise AssertionError("not reached")


class RangeReader:
    """A tar behind requests for ranges; each takes in some bytes more than asked for. See TarSource."""

    def __init__(self, fetch: Callable[[int, int], bytes], *, size: int, ahead: int) -> None:
        self.size = size
        self._fetch = fetch
        self._ahead = ahead
        self._start = 0
        self._content = b""

    def read_at(self, offset: int, num_bytes: int) -> bytes:
        """See TarSource."""
        stop = min(offset + num_bytes, self.size)
        end = self._start + len(self._content)
        if not self._start <= offset <= end:
            self._content, end = b"", offset
        else:
            self._content = self._content[offset - self._start :]
        self._start = offset
        if stop > end:
            self._content += self._fetch(end, min(max(stop, end + self._ahead), self.size))
        return self._content[: stop - offset] if stop > offset else b""


def no_ranges(url: str) -> str:
    """Return the message for a server that would send the whole tar."""
    return (
        f"{url}: the server does not answer requests for a part of a file (HTTP ranges), and whole tars would have to "
        "be downloaded; copy the tars to a folder and index them there"
    )

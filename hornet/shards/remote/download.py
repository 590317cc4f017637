"""Tars of a remote split into the cache: by ranges, or by a command of the user's."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence

from hornet.errors import UserError
from hornet.shards.remote.cache import CHUNK_BYTES, DownloadError, ShardCache
from hornet.shards.remote.files import RemoteConfig, RemoteFiles

CHUNKS_AT_ONCE = 4
WAIT_SECONDS = 0.5


class Downloader:
    """Brings whole tars of one split, by their numbers, into the cache."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        shard_bytes: Sequence[int],
        shard_sha256: Sequence[str | None],
        config: RemoteConfig,
    ) -> None:
        assert config.cache is not None
        self._urls = urls
        self._shard_bytes = shard_bytes
        self._shard_sha256 = shard_sha256
        self._config = config
        self._files = RemoteFiles(config)
        self._cache = ShardCache(config.cache, max_bytes=int(config.cache_gigabytes * 1e9))

    @property
    def num_fitting(self) -> int:
        """Tars that the cache holds if all are as large as the largest; at least one."""
        return min(len(self._urls), max(1, self._cache.max_bytes // max(self._shard_bytes)))

    def has(self, shard: int) -> bool:
        """Whether a tar is there."""
        return self._cache.locate(self._urls[shard]).exists()

    def open(self, shard: int) -> int | None:
        """Return a descriptor of a tar; None if it is not there."""
        return self._cache.open(self._urls[shard])

    def drop(self, shard: int) -> None:
        """Remove a tar that was found to be wrong."""
        self._cache.drop(self._urls[shard])

    def wait_for(self, shard: int) -> None:
        """Download a tar, or wait until another process has; raises UserError at the deadline."""
        started = time.monotonic()
        while not self.has(shard):
            try:
                if self.download(shard):
                    return
                reason = "another process has not brought it, or the cache is full of others"
            except (DownloadError, OSError) as error:
                reason = str(error)
            if time.monotonic() > started + self._config.deadline_seconds:
                raise UserError(f"{self._urls[shard]}: is not in the cache ({reason})")
            time.sleep(WAIT_SECONDS)

    def download(self, shard: int, *, wanted: Sequence[int] = ()) -> bool:
        """See ShardCache.download."""
        url = self._urls[shard]
        return self._cache.download(
            url,
            num_bytes=self._shard_bytes[shard],
            sha256=self._shard_sha256[shard],
            fetch=lambda start, stop: self._fetch(url, start, stop),
            wanted=[self._urls[other] for other in wanted],
        )

    def _fetch(self, url: str, start: int, stop: int) -> Iterator[bytes]:
        if self._config.command is not None:
            yield from run_command(self._config.command, url, start=start)
            return
        step = CHUNKS_AT_ONCE * CHUNK_BYTES
        for first in range(start, stop, step):
            last = min(first + step, stop)
            ranges = [(url, place, min(place + CHUNK_BYTES, last)) for place in range(first, last, CHUNK_BYTES)]
            for content, (_, place, end) in zip(self._files.read_many(ranges), ranges, strict=True):
                yield content
                if len(content) < end - place:  # the file ends here; the cache says by how much it is short
                    return


def run_command(command: str, url: str, *, start: int) -> Iterator[bytes]:
    """Yield what a shell command writes, from byte `start` on; raises DownloadError if it fails."""
    with subprocess.Popen(
        command.replace("{url}", shlex.quote(url)), shell=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        passed = 0
        while content := process.stdout.read(1 << 20):
            yield content[max(0, start - passed) :]
            passed += len(content)
    if process.returncode:
        raise DownloadError(f"{url}: `{command}` ended with {process.returncode}")

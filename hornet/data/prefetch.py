"""One process a node that brings tars into the cache before the ranks come to them.

It is a fresh interpreter, not a fork: a fork beside threads that talk to servers may start with their locks held. What
it needs comes as a line of JSON on its standard input, then a line for each step; where the input ends, the run has.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hornet.data.order import Order
from hornet.errors import UserError
from hornet.shards.remote.cache import DownloadError
from hornet.shards.remote.download import Downloader
from hornet.shards.remote.files import RemoteConfig
from hornet.shards.shard_set import ShardSet

CHECK_SECONDS = 0.2
SHARE_OF_LOOKING = 20  # a look lasts at most this part of the time
RETRY_SECONDS = 60.0
"""After this a tar that could not be had is tried again: until then its samples are read one by one."""

# Signals first: SLURM sends them to every process of a job, and the imports behind take a second.
START = """
import sys; sys.path[:] = {path!r}
from hornet.signals import leave_signals_to_main; leave_signals_to_main()
from hornet.data.prefetch import main; main()
"""


class ShardPrefetcher:
    """Runs ahead of a stream; the stream does not wait for it."""

    def __init__(self, shards: ShardSet, order: Order) -> None:
        assert shards.remote is not None
        self._task = {
            "urls": [shards.locate(shard) for shard in range(len(shards.split.shards))],
            "shard_bytes": shards.split.shard_bytes,
            "shard_sha256": shards.split.shard_sha256,
            "remote": asdict(shards.remote),
            "order": {
                "shard_lengths": shards.split.shard_lengths,
                "seed": order.seed,
                "shuffle_window_shards": order.shuffle_window_shards,
                "global_batch_size": order.global_batch_size,
                "partial_batch": order.partial_batch,
            },
        }
        self._process: subprocess.Popen[str] | None = None

    def follow(self, step: int) -> None:
        """Say which step is asked for next; the first call starts the process."""
        if self._process is None:
            command = [sys.executable, "-c", START.format(path=sys.path)]
            # A session of its own: what a terminal or SLURM sends to the group is the main process's business.
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
            self._write(json.dumps(self._task, default=str))
        self._write(str(step))

    def close(self) -> None:
        """End the process; what it had of a tar stays for the next one."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _write(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has died, and said why; samples are read one by one
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()


class Steps:
    """The step that the run is at, as it comes on standard input; the process ends with it."""

    def __init__(self) -> None:
        self.task: dict[str, Any] = json.loads(sys.stdin.readline())
        self.now = int(sys.stdin.readline())
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            self.now = int(line)
        os._exit(0)


def main() -> None:
    """Prefetch until the standard input ends."""
    steps = Steps()
    remote = steps.task["remote"]
    downloader = Downloader(
        steps.task["urls"],
        shard_bytes=steps.task["shard_bytes"],
        shard_sha256=steps.task["shard_sha256"],
        config=RemoteConfig(**remote | {"cache": Path(remote["cache"])}),
    )
    prefetch(downloader, Order(**steps.task["order"]), steps)


def list_wanted(order: Order, step: int, count: int) -> list[int]:
    """Return the `count` shards (at most all) that `step` and those behind it read first, each once."""
    wanted: dict[int, None] = {}
    for shard in order.list_shards(step):
        if len(wanted) >= min(count, len(order.lengths)):
            break
        wanted[shard] = None
    return list(wanted)


def prefetch(downloader: Downloader, order: Order, steps: Steps) -> None:
    """Bring what the run reads next, and what fits of what comes then; never returns."""
    failed: dict[int, float] = {}
    while True:
        started = time.monotonic()
        wanted = list_wanted(order, steps.now, downloader.num_fitting)
        missing = [s for s in wanted if time.monotonic() >= failed.get(s, 0) and not downloader.has(s)]
        if not missing:  # looking for 14,200 tars takes 0.15 s, and the ranks need the cores
            time.sleep(max(CHECK_SECONDS, SHARE_OF_LOOKING * (time.monotonic() - started)))
            continue
        try:
            if not downloader.download(missing[0], wanted=wanted):
                time.sleep(CHECK_SECONDS)
        except (DownloadError, UserError, OSError) as error:
            failed[missing[0]] = time.monotonic() + RETRY_SECONDS
            print(f"prefetch: {error}; its samples are read one by one meanwhile", file=sys.stderr, flush=True)

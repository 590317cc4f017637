"""Work spread over processes: results in order, no orphans, a dead worker is an error and not a hang."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

from hornet.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")

PARENT_CHECK_SECONDS = 0.2
QUEUED_A_WORKER = 8  # results wait in memory for those before them


def count_cores() -> int:
    """Return the cores this process may use (a job's share of a node, not the node)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_processes(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    num_workers: int,
    initializer: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
    poll: Callable[[], None] | None = None,
) -> Iterator[Result]:
    """Yield `function(task)` for each task, in their order; with one worker, in this process.

    `initializer(*arguments)` runs once in each worker. `poll` is called about twice a second while waiting.
    Workers are forked (they start at once and share what is imported), leave SIGINT and SIGTERM to this process, and
    end when it is killed. Raises UserError if a worker dies, and what `function` raised.
    """
    if num_workers <= 1 or len(tasks) <= 1:
        if initializer:
            initializer(*arguments)
        for task in tasks:
            result = function(task)
            if poll:
                poll()
            yield result
        return
    executor = ProcessPoolExecutor(
        max_workers=min(num_workers, len(tasks)),
        mp_context=multiprocessing.get_context("fork"),
        initializer=_start_worker,
        initargs=(os.getpid(), initializer, arguments),
    )
    try:
        left = iter(tasks)
        futures = deque(executor.submit(function, task) for task in islice(left, QUEUED_A_WORKER * num_workers))
        while futures:
            future = futures.popleft()
            _wait(future, poll)
            yield future.result()
            futures.extend(executor.submit(function, task) for task in islice(left, 1))
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died (out of memory, or killed); start the command again, perhaps with fewer --workers"
        ) from error
    finally:
        processes = list((executor._processes or {}).values())
        executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:  # they may be in the middle of a shard nobody waits for any more
            process.kill()


def _wait(future: Future[Any], poll: Callable[[], None] | None) -> None:
    while poll and not future.done():
        with contextlib.suppress(TimeoutError):
            future.exception(timeout=0.5)
        poll()


def _start_worker(parent: int, initializer: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if initializer:
        initializer(*arguments)


def _end_with(parent: int) -> None:
    """End this process when `parent` has gone: a killed build must leave nobody writing."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    os._exit(1)

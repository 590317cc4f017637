"""Worker processes: a DataLoader whose workers live as long as their stream and leave signals to the main process."""

from __future__ import annotations

import atexit
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from hornet.data.pipeline import Failure
from hornet.data.shared_memory import REMEDY, SHARED_MEMORY
from hornet.errors import UserError
from hornet.signals import leave_signals_to_main

Item = TypeVar("Item")


class WorkerPool(Generic[Item]):
    """Turns requests into items, in the order of the requests, with `num_workers` processes or, at 0, in this one.

    Workers are forked at the first request and serve all later ones. fork, not spawn: a spawned worker would import
    torch and timm again (seconds and hundreds of MB each, times 64 on a node) and need a guarded main module; forked
    ones touch no device, draw nothing from inherited generators and run torch on one thread, so threads lost in the
    fork are not missed. A killed main process is noticed by its workers within seconds; shared memory is unlinked as
    soon as it is mapped, so even SIGKILL leaves nothing behind.
    """

    def __init__(self, dataset: Dataset[Any], *, num_workers: int, prefetch: int) -> None:
        self._requests = _Requests()
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=self._requests,
            num_workers=num_workers,
            collate_fn=_keep,
            worker_init_fn=_leave_signals_to_main,
            multiprocessing_context="fork" if num_workers else None,
            prefetch_factor=prefetch if num_workers else None,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),  # copies to the device then run beside the computation
            generator=torch.Generator(),  # else a DataLoader draws its base seed from the global generator
        )
        self._turn = 0
        # A strong reference, so that the pool is never collected with its workers running: torch would end those by
        # SIGTERM, which they ignore, and so would multiprocessing at exit, and wait for them. This runs before it.
        atexit.register(self.close)

    def run(self, requests: Iterable[Any]) -> Iterator[Item]:
        """Yield the items of `requests`. Asking again ends the earlier iteration.

        Raises UserError with a worker's message if it hands over a Failure, or dies for want of memory.
        """
        self._turn += 1
        turn = self._turn
        self._requests.pending = requests
        for item in _explain_deaths(iter(self._loader)):
            if turn != self._turn:
                raise RuntimeError("this iteration was ended by a later one over the same stream")
            if isinstance(item, Failure):
                raise UserError(item.message)
            yield item

    def close(self) -> None:
        """End the workers; harmless if there are none. A pool that is not closed keeps them until the process exits."""
        atexit.unregister(self.close)
        iterator: Any = self._loader._iterator
        self._loader._iterator = None
        if iterator is not None and hasattr(iterator, "_shutdown_workers"):
            iterator._shutdown_workers()
            for worker in iterator._workers:
                if worker.is_alive():  # hung in a read: SIGTERM is ignored by design
                    worker.kill()


def _explain_deaths(items: Iterator[Any]) -> Iterator[Any]:
    """Yield the items; raise UserError where a worker died of what the user can mend."""
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except RuntimeError as error:
            told = f"{error} {error.__cause__}"
            if "Bus error" in told or "shared memory" in told:
                raise UserError(f"a worker found no room in {SHARED_MEMORY}: {REMEDY}") from error
            if "signal: Killed" in told:
                raise UserError(
                    "a worker was killed, most likely since memory ran out (dmesg or the scheduler says so): ask for "
                    "more memory, or set num_workers or prefetch (of data and of evaluation) lower"
                ) from error
            raise
        yield item


class _Requests:
    """The batch sampler: whatever is asked for next."""

    def __init__(self) -> None:
        self.pending: Iterable[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.pending)


def _keep(item: Any) -> Any:
    return item


def _leave_signals_to_main(_: int) -> None:
    leave_signals_to_main()

"""How ranks find each other at the start: rank 0 listens, each says that it has come, all wait until the last has.

torch.distributed waits in C++, without a word and deaf to signals. Here the wait is a loop that speaks and listens.
"""

from __future__ import annotations

import errno
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial

import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore

from hornet.errors import UserError
from hornet.signals import heard_signal
from hornet.world import World

PATIENCE_SECONDS = 1080.0
"""Below the default of run.stall_seconds, which would end the wait with less to say."""

SILENT_SECONDS = 5.0
"""Ranks of one launcher come within seconds of each other. Then a rank speaks, and after three times as long again."""

CONNECT_SECONDS = 5.0
ANSWER_TIME = timedelta(seconds=60)
LATER_ANSWER_TIME = timedelta(seconds=1800)
"""For what torch exchanges through the store when all have come: its own default."""

LOOK_SECONDS = (0.02, 0.5)
"""Pauses between two looks grow from the one to the other."""


def meet(world: World, *, purpose: str, patience_seconds: float = PATIENCE_SECONDS) -> Store:
    """Return the store that all ranks share, once all have come.

    `purpose` is the same text on all ranks of a run, and another in another run. Raises UserError if the port is taken,
    another run's ranks are met there, or somebody does not come. A signal that asks to stop ends the process.
    """
    wait = _Wait(world, seconds=patience_seconds)
    tcp = _listen(world) if world.is_main and not world.has_store else _reach(world, wait)
    store = PrefixStore(f"hornet/{world.num_restarts}", tcp)
    try:
        _enter(store, world, purpose=purpose, wait=wait)
        try:
            _wait_for_all(store, world, wait)
        except BaseException:
            _leave(store, world)
            raise
    except dist.DistError as error:
        raise UserError(
            f"rank {world.rank}: rank 0 at {_address(world)} is gone, before all ranks had come; its own output "
            "says why"
        ) from error
    tcp.set_timeout(LATER_ANSWER_TIME)
    return tcp


class _Wait:
    """What a rank does while it waits: speak now and then, obey signals, lose patience."""

    def __init__(self, world: World, *, seconds: float) -> None:
        self._world = world
        self._seconds = seconds
        self._began = time.monotonic()
        self._speaks_after = SILENT_SECONDS
        self._pause = LOOK_SECONDS[0]

    def look(self, describe: Callable[[], str], *, speaks: bool) -> None:
        """Pause; `describe` says for whom this rank waits.

        Raises UserError when patience ends, SystemExit on a signal.
        """
        time.sleep(self._pause)
        self._pause = min(1.5 * self._pause, LOOK_SECONDS[1])
        waited = time.monotonic() - self._began
        heard = heard_signal()
        if heard is not None:
            _say(f"rank {self._world.rank}: ended by {heard} after {waited:.0f} s at the start: {describe()}")
            sys.exit(128 + signal.Signals[heard])
        if waited > self._seconds:
            raise UserError(
                f"rank {self._world.rank} waited for {waited:.0f} s at the start, and gives up: {describe()}; see "
                "whether they were started, with the same MASTER_ADDR and MASTER_PORT, and what they said"
            )
        if speaks and waited > self._speaks_after:
            self._speaks_after *= 3
            _say(
                f"rank {self._world.rank} has waited for {waited:.0f} s: {describe()}; it gives up after "
                f"{self._seconds:.0f} s, and ends at once on Ctrl-C or SIGTERM"
            )


def _listen(world: World) -> TCPStore:
    try:
        # To itself rank 0 speaks over the loopback: MASTER_ADDR may be a name that only the others can resolve.
        return TCPStore(
            "localhost",
            world.master_port,
            is_master=True,
            wait_for_workers=False,
            timeout=ANSWER_TIME,
        )
    except dist.DistNetworkError as error:
        if errno.errorcode[errno.EADDRINUSE] not in str(error):
            raise UserError(f"rank 0 cannot listen on port {world.master_port}: {_first_line(error)}") from error
        raise UserError(
            f"port {world.master_port} of {socket.gethostname()}, where the ranks are to meet, is in use, perhaps by "
            "another run: choose another port (MASTER_PORT; deepspeed and torchrun --master_port, accelerate launch "
            "--main_process_port), or 'torchrun --standalone', which looks for a free one"
        ) from error


def _reach(world: World, wait: _Wait) -> TCPStore:
    """Connect to who listens; a plain connection first, since TCPStore would try for long, deaf to signals."""
    while True:
        try:
            socket.create_connection((world.master_address, world.master_port), timeout=CONNECT_SECONDS).close()
            return TCPStore(world.master_address, world.master_port, wait_for_workers=False, timeout=ANSWER_TIME)
        except (OSError, dist.DistError) as error:
            told = f"rank 0 does not answer at {_address(world)} ({_first_line(error)})"
        wait.look(partial(str, told), speaks=True)


def _enter(store: Store, world: World, *, purpose: str, wait: _Wait) -> None:
    """Say that this rank has come, unless others than its own are met here."""
    about = f"{world.num_ranks} ranks of {purpose}"
    if world.is_main:
        store.set("about", about)
    while not store.check(["about"]):
        wait.look(partial(str, f"rank 0 has not come to {_address(world)}"), speaks=True)
    met = store.get("about").decode()
    if met != about:
        raise UserError(
            f"rank {world.rank} belongs to {about}, but met {met} at {_address(world)}: two runs use one port; choose "
            "another for one of them (MASTER_PORT; deepspeed and torchrun --master_port)"
        )
    mine = f"process {world.local_rank} of {socket.gethostname()} at {time.time_ns()}"
    if store.compare_set(f"rank/{world.rank}", "", mine).decode() != mine:
        raise UserError(
            f"rank {world.rank} has come to {_address(world)} already: two processes are told to be rank {world.rank}, "
            "or another start of this run uses the port; choose another (MASTER_PORT)"
        )
    store.add("num_come", 1)


def _wait_for_all(store: Store, world: World, wait: _Wait) -> None:
    while (num_come := store.add("num_come", 0)) < world.num_ranks:
        if store.check(["left"]):
            raise UserError(store.get("left").decode())
        wait.look(partial(_describe, store, world, num_come=num_come), speaks=world.is_main)


def _leave(store: Store, world: World) -> None:
    """Tell those who wait that this rank will not be with them."""
    with suppress(dist.DistError):  # whoever listens may be gone as well
        store.set("left", f"rank {world.rank} left before all ranks had come; its own output says why")


def _describe(store: Store, world: World, *, num_come: int) -> str:
    missing = [str(rank) for rank in range(world.num_ranks) if not store.check([f"rank/{rank}"])]
    shown = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
    return f"{num_come} of {world.num_ranks} ranks have come to {_address(world)}, missing: rank {shown}"


def _address(world: World) -> str:
    return f"{world.master_address}:{world.master_port}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

"""The ranks of a small world as forks of this process, on the CPU: what was imported is imported once for all."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable

import torch

from hornet.training.process_group import open_process_group
from hornet.world import World


def run_world(num_ranks: int, action: Callable[[World], object]) -> None:
    """Fork `num_ranks` ranks, have each call `action` in a process group of all, and wait for them.

    Ends this process, saying the exit codes, if a rank ends otherwise than with 0; its traceback stands on stderr.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(num_ranks):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                world = World(
                    rank=rank,
                    num_ranks=num_ranks,
                    local_rank=rank,
                    num_local_ranks=num_ranks,
                    master_address="127.0.0.1",
                    master_port=port,
                )
                with open_process_group(world, device=torch.device("cpu")):
                    action(world)
                code = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stdout.flush()
                os._exit(code)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    if any(codes):
        sys.exit(f"a world of {num_ranks} ranks ended with {codes}")

"""Imported in a rank before its script: moves the process to the network namespace that NETNS names."""

import ctypes
import os

CLONE_NEWNET = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)
with open(f"/run/netns/{os.environ['NETNS']}") as namespace:  # noqa: PTH123  a file of the kernel's, by descriptor
    if libc.setns(namespace.fileno(), CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")

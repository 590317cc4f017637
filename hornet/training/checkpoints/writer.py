"""Writing a rank's files beside the training: a copy in host memory first, then the disk, in a thread.

Only the copy holds the run up. Not here: when a checkpoint counts (hornet/training/checkpoints/checkpoint.py).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

_CHUNK_BYTES = 1 << 24


class CheckpointWriter:
    """One rank's files of one checkpoint at a time: `take` them, `start` writing, `collect` what was written."""

    def __init__(self, *, is_asynchronous: bool) -> None:
        """Make a writer; one that is not asynchronous copies nothing, and its `start` returns when all is written."""
        self._is_asynchronous = is_asynchronous
        self._taken: list[tuple[Path, Any]] = []
        self._buffers: dict[tuple[str, int], Tensor] = {}
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="checkpoint") if is_asynchronous else None
        self._writing: list[Future[tuple[str, dict[str, Any]]]] = []

    def take(self, path: Path, state: Any) -> None:
        """Note that `state`, tensors and plain values in containers, is to be written to `path`, as it is now."""
        self._taken.append((path, self._copy(path.name, state) if self._is_asynchronous else state))

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensors taken and not yet started."""
        return sum(leaf.numel() * leaf.element_size() for _, state in self._taken for leaf in _list_tensors(state))

    def start(self) -> None:
        """Begin to write what was taken. No error leaves here: `collect` raises it."""
        for path, state in self._taken:
            if self._threads is not None:
                self._writing.append(self._threads.submit(_write, path, state))
            else:
                future: Future[tuple[str, dict[str, Any]]] = Future()
                try:
                    future.set_result(_write(path, state))
                except OSError as error:
                    future.set_exception(error)
                self._writing.append(future)
        self._taken = []

    def is_done(self) -> bool:
        """Return whether all that was started is written, or has failed."""
        return all(future.done() for future in self._writing)

    def collect(self) -> dict[str, dict[str, Any]]:
        """Wait, and return size and SHA-256 of each file by name.

        Raises OSError if a file could not be written.
        """
        writing, self._writing = self._writing, []
        results = [future.exception() for future in writing]  # waits for all
        for error in results:
            if error is not None:
                raise error
        return dict(future.result() for future in writing)

    def forget(self) -> None:
        """Drop what was taken and not started."""
        self._taken = []

    def close(self) -> None:
        """End the thread, after what it is writing."""
        if self._threads is not None:
            self._threads.shutdown()

    def _copy(self, name: str, state: Any) -> Any:
        """Copy all tensors into host memory that is kept for the next time: fresh pages cost more than the copy."""
        leaves, shape = tree_flatten(state, is_leaf=_is_size)
        copies = []
        has_gpu = False
        for number, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                buffer = self._buffers.get((name, number))
                if buffer is None or buffer.shape != leaf.shape or buffer.dtype != leaf.dtype:
                    buffer = torch.empty(leaf.shape, dtype=leaf.dtype, pin_memory=leaf.is_cuda)
                    self._buffers[name, number] = buffer
                leaf = buffer.copy_(leaf.detach(), non_blocking=leaf.is_cuda)
                has_gpu = has_gpu or leaf.is_pinned()
            copies.append(leaf)
        if has_gpu:
            torch.cuda.current_stream().synchronize()
        return tree_unflatten(copies, shape)


class _HashingFile:
    """A file that knows the SHA-256 of what was written to it."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, content: Any) -> int:
        view = memoryview(content)
        for start in range(0, len(view), _CHUNK_BYTES):
            chunk = view[start : start + _CHUNK_BYTES]
            self._file.write(chunk)
            self.digest.update(chunk)
        return len(view)

    def flush(self) -> None:
        self._file.flush()


def _write(path: Path, state: Any) -> tuple[str, dict[str, Any]]:
    try:
        with path.open("wb") as file:
            hashing = _HashingFile(file)
            torch.save(state, hashing)  # type: ignore[arg-type]  # it only writes and flushes
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch's zip writer reports a full disk as RuntimeError
        raise OSError(f"{path} could not be written: {error}") from error
    return path.name, {"bytes": path.stat().st_size, "sha256": hashing.digest.hexdigest()}


def _is_size(value: Any) -> bool:
    return isinstance(value, torch.Size)  # a tuple to the tree, which would come back as one


def _list_tensors(state: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_flatten(state)[0] if isinstance(leaf, Tensor))

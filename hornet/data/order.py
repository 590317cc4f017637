"""The order of training: which samples make which global batch, as pure arithmetic on plain numbers.

The shards of an epoch are permuted by (seed, epoch); windows of them, in that order, are shuffled inside. A global
batch is the next `global_batch_size` positions; ranks, micro steps and workers only slice it. Nothing is drawn in
sequence, so any step is reached at once, and the state of the stream is the step alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from hornet.errors import UserError
from hornet.seeding import Int64Array, permute

ORDER_VERSION = 1
"""Raised whenever the same manifest, seed and epoch would give another order."""

PartialBatch = Literal["drop", "carry"]
WindowArray = npt.NDArray[np.uint32] | npt.NDArray[np.int64]
"""Kept as 4 bytes a sample where they do: with one window over all of ImageNet-22K every rank holds 57 MB."""

NUM_KEPT_WINDOWS = 2  # picks go forward: the window they are in, and the one before while a batch spans both


@dataclass(frozen=True, kw_only=True)
class Picks:
    """Samples in the order in which they are trained on."""

    epochs: Int64Array
    """(n,) epoch of each pick, 0-based."""
    samples: Int64Array
    """(n,) position of each in the split's index."""

    def __len__(self) -> int:
        return len(self.samples)


def require_whole_batch(num_samples: int, *, global_batch_size: int, partial_batch: PartialBatch) -> None:
    """Raise UserError if an epoch of so many samples has no batch."""
    if partial_batch == "drop" and global_batch_size > num_samples:
        raise UserError(
            f"global_batch_size {global_batch_size} is more than the split's {num_samples} samples, so an epoch has no "
            "whole batch; make it smaller or set partial_batch to carry"
        )


class Order:
    """The order of one run over one split. Pure: only windows that were asked for lately are kept, for speed."""

    def __init__(
        self,
        *,
        shard_lengths: Sequence[int],
        seed: int,
        shuffle_window_shards: int,
        global_batch_size: int,
        partial_batch: PartialBatch,
    ) -> None:
        self.lengths = np.asarray(shard_lengths, dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self.num_samples = int(self.starts[-1])
        self.seed = seed
        self.shuffle_window_shards = shuffle_window_shards
        self.global_batch_size = global_batch_size
        self.partial_batch = partial_batch
        require_whole_batch(self.num_samples, global_batch_size=global_batch_size, partial_batch=partial_batch)
        self._shards: dict[int, Int64Array] = {}
        self._windows: dict[tuple[int, int], WindowArray] = {}

    @property
    def steps_per_epoch(self) -> float:
        """Global batches in an epoch: whole with `drop`, a fraction with `carry`."""
        if self.partial_batch == "drop":
            return float(self.num_samples // self.global_batch_size)
        return self.num_samples / self.global_batch_size

    def epoch_of(self, step: int) -> int:
        """Return the epoch in which the first sample of the global batch of `step` (0-based) lies."""
        return self._locate(step)[0]

    def pick(self, *, step: int, start: int, stop: int) -> Picks:
        """Return the samples `start` to `stop` of the global batch of `step` (0-based)."""
        epoch, position = self._locate(step)
        position += start
        epochs, samples = [], []
        remaining = stop - start
        while remaining > 0:
            epoch, position = epoch + position // self.num_samples, position % self.num_samples
            part = self.read_epoch(epoch, start=position, stop=min(position + remaining, self.num_samples))
            epochs.append(np.full(len(part), epoch, dtype=np.int64))
            samples.append(part)
            position += len(part)
            remaining -= len(part)
        if not samples:
            return Picks(epochs=np.empty(0, np.int64), samples=np.empty(0, np.int64))
        return Picks(epochs=np.concatenate(epochs), samples=np.concatenate(samples))

    def list_shards(self, step: int) -> Iterator[int]:
        """Yield the shards that `step` (0-based) and those behind it read, each where it is needed first, on and on.

        Those of a window come together: of its shards, any may be needed at once.
        """
        epoch, position = self._locate(step)
        first = int(np.searchsorted(self._find_ends(epoch), position, side="right"))
        while True:
            yield from self._shards_of(epoch)[first * self.shuffle_window_shards :].tolist()
            epoch, first = epoch + 1, 0

    def read_epoch(self, epoch: int, *, start: int, stop: int) -> Int64Array:
        """Return positions `start` to `stop` (excluded) of an epoch; only the windows they touch are computed."""
        ends = self._find_ends(epoch)
        parts = []
        window = int(np.searchsorted(ends, start, side="right"))
        while start < stop:
            window_start = int(ends[window - 1]) if window else 0
            samples = self._window(epoch, window)
            parts.append(samples[start - window_start : stop - window_start].astype(np.int64))
            start = int(ends[window])
            window += 1
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _find_ends(self, epoch: int) -> Int64Array:
        """Return the position in the epoch behind each window."""
        ends = np.cumsum(self.lengths[self._shards_of(epoch)])[
            self.shuffle_window_shards - 1 :: self.shuffle_window_shards
        ]
        return ends if len(ends) and ends[-1] == self.num_samples else np.append(ends, self.num_samples)

    def _locate(self, step: int) -> tuple[int, int]:
        if self.partial_batch == "drop":
            epoch, step_in_epoch = divmod(step, self.num_samples // self.global_batch_size)
            return epoch, step_in_epoch * self.global_batch_size
        return divmod(step * self.global_batch_size, self.num_samples)

    def _shards_of(self, epoch: int) -> Int64Array:
        if epoch not in self._shards:
            self._shards = dict(list(self._shards.items())[-1:])  # a batch may span two epochs
            self._shards[epoch] = permute(len(self.lengths), "order of shards", self.seed, epoch)
        return self._shards[epoch]

    def _window(self, epoch: int, window: int) -> WindowArray:
        if (epoch, window) not in self._windows:
            width = self.shuffle_window_shards
            shards = self._shards_of(epoch)[window * width : (window + 1) * width]
            kind = np.uint32 if self.num_samples <= 2**32 else np.int64
            bounds = [(self.starts[shard], self.starts[shard + 1]) for shard in shards]
            samples = np.concatenate([np.arange(start, stop, dtype=kind) for start, stop in bounds])
            self._windows = dict(list(self._windows.items())[1 - NUM_KEPT_WINDOWS :])
            self._windows[epoch, window] = samples[permute(len(samples), "order in a window", self.seed, epoch, window)]
        return self._windows[epoch, window]

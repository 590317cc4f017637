"""Stages that begin a webdataset pipeline: whole samples in the order of our stream, from any step on at once.

They take the place of SimpleShardList, the shuffles, split_by_node, split_by_worker and tarfile_to_samples; what comes
behind them stays. Each yields webdataset's own dictionaries: `__key__`, `__url__`, and the bytes of every member.

Not here: images as batches for the trainer (`loader.py`), counting steps over worker processes (`step_loader.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any, Unpack

import torch
from torch.utils.data import IterableDataset, get_worker_info

from hornet.data.division import check_division
from hornet.data.order import ORDER_VERSION, Order, PartialBatch
from hornet.data.prefetch import ShardPrefetcher
from hornet.data.substitutes import MAX_SUBSTITUTES, list_substitutes
from hornet.data.whole_samples import Opened, Reading, Sample
from hornet.errors import UserError
from hornet.shards.indexing.tar_list import Tars
from hornet.shards.reader import ShardReader

FETCHED_AT_ONCE = 16  # requests of one process that a server answers side by side


class TrainSamples(IterableDataset[Sample]):
    """One rank's samples, endless or up to `num_steps`; the state is the step.

    Which samples make a global batch, and in which order, follows from (tars, seed, epoch, global_batch_size,
    shuffle_window_shards) alone. Worker `w` of `W` of a DataLoader takes every W-th micro batch, so batches made of
    `micro_batch_size` samples, within the workers or by DataLoader(batch_size=...), come in the order of the stream.

    An iteration begins at the step that was loaded last (else 0), and does not move it: StepLoader counts.
    """

    def __init__(
        self,
        place: Tars,
        *,
        global_batch_size: int,
        micro_batch_size: int | None = None,
        seed: int = 0,
        num_steps: int | None = None,
        split: str = "train",
        shuffle_window_shards: int = 64,
        partial_batch: PartialBatch = "drop",
        **reading: Unpack[Reading],
    ) -> None:
        """Open the tars that `place` names, or the set in a folder or at a URL; index them if they are new.

        `micro_batch_size` is what is batched behind this stage (None: the rank's share of the global batch; 1 if
        samples are batched behind the DataLoader). `reading`: see Reading. If the handler goes on, another sample,
        chosen by (seed, epoch, sample), takes the place of one that cannot be used, so that steps stay equal. Raises
        UserError.
        """
        self._opened = Opened(place, split=split, **reading)
        world = self._opened.world
        rank_batch_size = global_batch_size // world.num_ranks
        self.micro_batch_size = max(1, rank_batch_size) if micro_batch_size is None else micro_batch_size
        check_division(global_batch_size, num_ranks=world.num_ranks, micro_batch_size=self.micro_batch_size)
        shards = self._opened.whole.shards
        self._order = Order(
            shard_lengths=shards.split.shard_lengths,
            seed=seed,
            shuffle_window_shards=shuffle_window_shards,
            global_batch_size=global_batch_size,
            partial_batch=partial_batch,
        )
        self.num_steps = num_steps
        self.rank_batch_size = rank_batch_size
        """Samples of this rank in a step."""
        self.num_micro_steps = rank_batch_size // self.micro_batch_size
        """Micro batches of this rank in a step."""
        self.steps_per_epoch = self._order.steps_per_epoch
        self.num_samples = shards.num_samples
        self.identity = _identify(self._order, shards.fingerprint)
        # In shared memory: workers that live on between iterations see what the main process loads.
        self._start = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._loaded: int | None = None  # by a worker: its own place
        self._next: int | None = None  # where this process's iteration stands

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Share the place that is loaded with the copy's own workers too: a copy's memory is of one process."""
        self.__dict__.update(state)
        self._start.share_memory_()

    def epoch_of(self, step: int) -> int:
        """Return the epoch (0-based) in which the global batch of `step` (0-based) begins."""
        return self._order.epoch_of(step)

    def state_dict(self) -> dict[str, Any]:
        """Return the step that comes next where this process iterates, samples of it that were given, and of what set.

        A worker's state is its own; what the training loop has received only the loop, or a StepLoader, knows.
        """
        step, samples = divmod(self._find_start() if self._next is None else self._next, self.rank_batch_size)
        return {"step": step, "samples": samples, **self.identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin the next iteration at a state, of any number of ranks and workers, or at {"step": step}.

        Raises UserError if it is of other tars or another order, or was taken within a step on another number of ranks.
        """
        for key, value in self.identity.items():
            if state.get(key, value) != value:
                raise UserError(
                    f"{key}: the state was saved with {state[key]!r}, this stream has {value!r}, so its batches are "
                    "others; use what the state was saved with, or begin at step 0"
                )
        samples = state.get("samples", 0)
        if not 0 <= samples < self.rank_batch_size:
            raise UserError(
                f"samples: the state was saved within a step, {samples} samples into a rank's share, which is "
                f"{self.rank_batch_size} here; save between steps, or go on with as many ranks"
            )
        position = int(state["step"]) * self.rank_batch_size + samples
        if get_worker_info() is None:
            self._start[0] = position
        else:
            self._loaded = position
        self._next = None

    def __iter__(self) -> Iterator[Sample]:
        self._opened.require_undivided()
        return self._iterate()

    def _iterate(self) -> Iterator[Sample]:
        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        position, self._loaded = self._find_start(), None
        self._next = position
        shards = self._opened.whole.shards
        follows = shards.remote is not None and shards.remote.cache is not None
        is_first = worker + self._opened.world.local_rank == 0
        prefetcher = ShardPrefetcher(shards, self._order) if follows and is_first else None
        try:
            with closing(ShardReader(shards)) as reader:
                yield from self._give(reader, prefetcher, position, num_workers)
        finally:
            if prefetcher is not None:
                prefetcher.close()

    def _find_start(self) -> int:
        """Return the number, among all of this rank, of the sample with which this process begins to iterate."""
        if self._loaded is not None:
            return self._loaded
        info = get_worker_info()
        return int(self._start[0]) + (info.id if info else 0) * self.micro_batch_size

    def _give(
        self, reader: ShardReader, prefetcher: ShardPrefetcher | None, position: int, num_workers: int
    ) -> Iterator[Sample]:
        size = self.micro_batch_size
        num_at_once = 1 if self._opened.whole.shards.remote is None else -(-FETCHED_AT_ONCE // size)
        while True:
            picks: list[tuple[int, int, int]] = []  # epoch, sample, and where this process stands behind it
            for _ in range(num_at_once):
                step, start = divmod(position, self.rank_batch_size)
                if self.num_steps is not None and step >= self.num_steps:
                    break
                if prefetcher is not None:
                    prefetcher.follow(step)
                stop = (start // size + 1) * size
                picks += self._pick(step, start, stop, behind=position + (stop - start) + (num_workers - 1) * size)
                position = picks[-1][2]
            if not picks:
                return
            reader.prepare(sample for _, sample, _ in picks)
            for epoch, sample, behind in picks:
                found = self._read(reader, epoch, sample)
                if found is None:
                    return
                self._next = behind
                yield found

    def _pick(self, step: int, start: int, stop: int, *, behind: int) -> list[tuple[int, int, int]]:
        first = self._opened.world.rank * self.rank_batch_size
        picks = self._order.pick(step=step, start=first + start, stop=first + stop)
        places = [step * self.rank_batch_size + number for number in range(start + 1, stop)]
        return list(zip(picks.epochs.tolist(), picks.samples.tolist(), [*places, behind], strict=True))

    def _read(self, reader: ShardReader, epoch: int, sample: int) -> Sample | None:
        """Return a sample or its substitute; None if the handler ends the iteration."""
        try:
            return self._opened.read(reader, sample)
        except UserError as error:
            if not self._opened.handler(error):
                return None
            first = error
        for other in list_substitutes(sample, seed=self._order.seed, epoch=epoch, num_samples=self.num_samples):
            try:
                return self._opened.read(reader, other)
            except UserError:
                continue
        raise UserError(f"{first}; none of {MAX_SUBSTITUTES} substitutes can be used either")


def _identify(order: Order, fingerprint: str) -> dict[str, Any]:
    """Return what a state is of, and what must be the same where it is loaded."""
    return {
        "order_version": ORDER_VERSION,
        "tars": fingerprint,
        "seed": order.seed,
        "global_batch_size": order.global_batch_size,
        "shuffle_window_shards": order.shuffle_window_shards,
        "partial_batch": order.partial_batch,
    }


class EvaluationSamples(IterableDataset[Sample]):
    """One rank's part of all samples, each once over ranks and workers, in the order of the tars.

    All ranks get as many batches of `batch_size`: what is missing is padding, copies of a sample with `__is_real__`
    False, which are to be left out of every sum. All others have it True.
    """

    def __init__(
        self,
        place: Tars,
        *,
        batch_size: int,
        split: str = "validation",
        **reading: Unpack[Reading],
    ) -> None:
        """Open the tars. Where the handler goes on, padding stands for the sample. Raises UserError."""
        if batch_size < 1:
            raise UserError(f"batch_size: must be at least 1, not {batch_size}")
        instead = "iterate over the loader itself, and sum over ranks what is counted of samples that are real"
        self._opened = Opened(place, split=split, instead=instead, **reading)
        self.batch_size = batch_size
        self.num_samples = self._opened.whole.shards.num_samples
        self.num_batches = -(-self.num_samples // (self._opened.world.num_ranks * batch_size))
        """Batches of each rank."""

    def __iter__(self) -> Iterator[Sample]:
        self._opened.require_undivided()
        return self._iterate()

    def _iterate(self) -> Iterator[Sample]:
        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        padding: Sample | None = None
        with closing(ShardReader(self._opened.whole.shards)) as reader:
            for number in range(worker, self.num_batches, num_workers):
                start = (number * self._opened.world.num_ranks + self._opened.world.rank) * self.batch_size
                samples = range(start, start + self.batch_size)
                reader.prepare(sample for sample in samples if sample < self.num_samples)
                for sample in samples:
                    try:
                        if sample < self.num_samples:
                            yield self._opened.read(reader, sample) | {"__is_real__": True}
                            continue
                    except UserError as error:
                        if not self._opened.handler(error):
                            return
                    padding = padding or self._find_padding(reader) | {"__is_real__": False}
                    yield dict(padding)

    def _find_padding(self, reader: ShardReader) -> Sample:
        for sample in range(min(MAX_SUBSTITUTES, self.num_samples)):
            try:
                return self._opened.read(reader, sample)
            except UserError as error:
                last = error
        raise UserError(f"{last}; none of the first {MAX_SUBSTITUTES} samples can be used as padding either")

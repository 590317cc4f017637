"""The streams a stage opens: micro batches for training, reachable from any step, and batches for evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hornet.batch import Batch
from hornet.config import free
from hornet.data.augment.transforms import EvaluationTransform, Interpolation, TrainTransform, TransformConfig
from hornet.data.order import ORDER_VERSION, Order, PartialBatch
from hornet.data.pipeline import PADDING, EvaluationBatches, Pick, TrainBatches
from hornet.data.prefetch import ShardPrefetcher
from hornet.data.workers import WorkerPool
from hornet.errors import UserError
from hornet.quantities import list_divisors
from hornet.shards.label_space import LabelSpace
from hornet.shards.remote.files import RemoteConfig
from hornet.shards.shard_set import ShardSet, open_shards
from hornet.world import World


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """The training stream."""

    shards: Path | str = free()
    """Folder that holds the set's _info.json, or its URL (http(s)://, s3://, gs://, hf://)."""
    split: str = "train"
    """Which of its splits."""
    shuffle_window_shards: int = 64
    """Shards whose samples are shuffled together, after the shards themselves; all of them give a full shuffle."""
    partial_batch: PartialBatch = "drop"
    """What becomes of an epoch's last samples that do not fill a global batch: drop them, or carry them over."""
    num_workers: int = free(0)
    """Processes that decode, for each rank; 0 decodes in the training process."""
    prefetch: int = free(2)
    """Micro batches that each worker prepares ahead."""
    max_bad_sample_rate: float = free(0.0)
    """Share of the samples that may be unusable (and replaced) before the run fails, 0 to 1."""
    transform: TransformConfig
    """Augmentation."""
    remote: RemoteConfig = field(default_factory=RemoteConfig)
    """How tars at a URL are read."""

    def __post_init__(self) -> None:
        _check_workers(self.num_workers, self.prefetch, self.max_bad_sample_rate)
        if self.shuffle_window_shards < 1:
            raise UserError(f"shuffle_window_shards: must be at least 1, not {self.shuffle_window_shards}")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """The evaluation stream: every sample once."""

    shards: Path | str = free()
    """Folder that holds the set's _info.json, or its URL (http(s)://, s3://, gs://, hf://)."""
    split: str = "validation"
    """Which of its splits."""
    image_size: int
    """Edge of the square given to the model, pixels."""
    crop_fraction: float | None = 0.875
    """Edge of the centre crop over the resized short edge; null warps the whole picture to the square instead."""
    interpolation: Interpolation = "bicubic"
    """Filter of the resize."""
    batch_size: int = free(64)
    """Images of one rank's batch."""
    num_workers: int = free(0)
    """Processes that decode, for each rank; 0 decodes in the main process."""
    prefetch: int = free(2)
    """Batches that each worker prepares ahead."""
    max_bad_sample_rate: float = free(0.0)
    """Share of the samples that may be unusable (and left out) before the run fails, 0 to 1."""
    remote: RemoteConfig = field(default_factory=RemoteConfig)
    """How tars at a URL are read."""

    def __post_init__(self) -> None:
        _check_workers(self.num_workers, self.prefetch, self.max_bad_sample_rate)
        if self.image_size < 1:
            raise UserError(f"image_size: must be at least 1 pixel, not {self.image_size}")
        if self.batch_size < 1:
            raise UserError(f"batch_size: must be at least 1, not {self.batch_size}")
        if self.crop_fraction is not None and not 0 < self.crop_fraction <= 1:
            raise UserError(f"crop_fraction: must be over 0 and at most 1, or null, not {self.crop_fraction}")


class TrainStream:
    """One rank's micro batches. The state of the stream is the step: nothing of it is saved."""

    micro_batch_size: int
    """Images in a micro batch."""
    num_micro_steps: int
    """Micro batches of this rank in one step."""

    def __init__(
        self, config: StreamConfig, *, shards: ShardSet, order: Order, world: World, micro_batch_size: int
    ) -> None:
        self._world = world
        self._order = order
        self._rank_batch_size = order.global_batch_size // world.num_ranks
        self.label_space: LabelSpace = shards.label_space
        self.num_samples = shards.num_samples
        self.num_shards = len(shards.split.shards)
        self.manifest_fingerprint = shards.fingerprint
        """Goes into the run's record; a resumed run must find the same."""
        self.order_version = ORDER_VERSION
        """As well."""
        self.split(micro_batch_size)
        self.steps_per_epoch = order.steps_per_epoch
        """Whole with partial_batch drop, a fraction with carry."""
        self._dataset = TrainBatches(shards, transform=TrainTransform(config.transform), seed=order.seed)
        self._pool: WorkerPool[Batch] = WorkerPool(
            self._dataset, num_workers=config.num_workers, prefetch=config.prefetch
        )
        has_cache = shards.remote is not None and shards.remote.cache is not None
        self._prefetcher = ShardPrefetcher(shards, order) if has_cache and world.local_rank == 0 else None

    def split(self, micro_batch_size: int) -> None:
        """Divide this rank's share of a step into micro batches of another size, before any is read."""
        self.micro_batch_size = micro_batch_size
        self.num_micro_steps = self._rank_batch_size // micro_batch_size

    def epoch_of(self, step: int) -> int:
        """Return the epoch (0-based) in which the global batch of `step` (0-based) begins."""
        return self._order.epoch_of(step)

    def iterate(self, first_step: int, num_steps: int) -> Iterator[Batch]:
        """Yield this rank's micro batches of steps `first_step` (0-based) and on, `num_micro_steps` for each step.

        Workers stay for the next call. Bad samples are replaced and reported in the batch; whether they are too many
        is the caller's to judge, over all ranks.
        """
        yield from self._pool.run(self._picks(first_step, num_steps))

    def close(self) -> None:
        """End the workers, and what brings tars into the cache."""
        if self._prefetcher is not None:
            self._prefetcher.close()
        self._pool.close()
        self._dataset.close()

    def _picks(self, first_step: int, num_steps: int) -> Iterator[list[Pick]]:
        first = self._world.rank * self._rank_batch_size
        for step in range(first_step, first_step + num_steps):
            if self._prefetcher is not None:
                self._prefetcher.follow(step)
            for start in range(first, first + self._rank_batch_size, self.micro_batch_size):
                picks = self._order.pick(step=step, start=start, stop=start + self.micro_batch_size)
                yield list(zip(picks.epochs.tolist(), picks.samples.tolist(), strict=True))


class EvaluationStream:
    """One rank's part of a split; all ranks yield as many batches, so collective calls stay in step."""

    def __init__(self, config: EvaluationConfig, *, shards: ShardSet, world: World) -> None:
        self._world = world
        self.max_bad_sample_rate = config.max_bad_sample_rate
        """Share of samples that may be left out; the caller's to judge, over all ranks."""
        self.label_space: LabelSpace = shards.label_space
        self.num_samples = shards.num_samples
        self.manifest_fingerprint = shards.fingerprint
        self.batch_size = config.batch_size
        self.num_batches = -(-shards.num_samples // (world.num_ranks * config.batch_size))
        """Batches of each rank; the last ones may hold padding (is_real False)."""
        transform = EvaluationTransform(
            image_size=config.image_size, crop_fraction=config.crop_fraction, interpolation=config.interpolation
        )
        self._dataset = EvaluationBatches(shards, transform=transform)
        self._pool: WorkerPool[Batch] = WorkerPool(
            self._dataset, num_workers=config.num_workers, prefetch=config.prefetch
        )

    def iterate(self) -> Iterator[Batch]:
        """Yield this rank's batches."""
        yield from self._pool.run(self._requests())

    def close(self) -> None:
        """End the workers."""
        self._pool.close()
        self._dataset.close()

    def _requests(self) -> Iterator[list[int]]:
        for number in range(self.num_batches):
            start = (number * self._world.num_ranks + self._world.rank) * self.batch_size
            yield [sample if sample < self.num_samples else PADDING for sample in range(start, start + self.batch_size)]


def open_train_stream(
    config: StreamConfig, *, world: World, seed: int, global_batch_size: int, micro_batch_size: int
) -> TrainStream:
    """Open a split for training, after checking its files and that the global batch can be divided.

    Raises UserError, to be shared with all ranks: each checks its part of the files.
    """
    check_division(global_batch_size, num_ranks=world.num_ranks, micro_batch_size=micro_batch_size)
    shards = open_shards(config.shards, config.split, remote=config.remote, world=world)
    order = Order(
        shard_lengths=shards.split.shard_lengths,
        seed=seed,
        shuffle_window_shards=config.shuffle_window_shards,
        global_batch_size=global_batch_size,
        partial_batch=config.partial_batch,
    )
    return TrainStream(config, shards=shards, order=order, world=world, micro_batch_size=micro_batch_size)


def open_evaluation_stream(config: EvaluationConfig, *, world: World) -> EvaluationStream:
    """Open a split for evaluation, after checking its files; raises UserError."""
    shards = open_shards(config.shards, config.split, remote=config.remote, world=world)
    return EvaluationStream(config, shards=shards, world=world)


def check_division(global_batch_size: int, *, num_ranks: int, micro_batch_size: int) -> None:
    """Raise UserError, saying what would do, unless the global batch is whole micro batches on every rank."""
    if global_batch_size < 1 or micro_batch_size < 1:
        raise UserError(
            f"global_batch_size and micro_batch_size must be at least 1, not {global_batch_size} and {micro_batch_size}"
        )
    if global_batch_size % num_ranks:
        raise UserError(
            f"global_batch_size {global_batch_size} cannot be divided over {num_ranks} ranks; "
            f"world sizes that divide it: {_join(list_divisors(global_batch_size))}"
        )
    rank_batch_size = global_batch_size // num_ranks
    if rank_batch_size % micro_batch_size:
        advice = f"micro_batch_size may be {_join(list_divisors(rank_batch_size))}"
        if global_batch_size % micro_batch_size == 0:
            advice += f", or the world size {_join(list_divisors(global_batch_size // micro_batch_size))}"
        raise UserError(
            f"global_batch_size {global_batch_size} over {num_ranks} ranks leaves {rank_batch_size} images a rank, "
            f"which is not a multiple of micro_batch_size {micro_batch_size}; {advice}"
        )


def _check_workers(num_workers: int, prefetch: int, max_bad_sample_rate: float) -> None:
    if num_workers < 0:
        raise UserError(f"num_workers: must be 0 or more, not {num_workers}")
    if prefetch < 1:
        raise UserError(f"prefetch: must be at least 1, not {prefetch}")
    if not 0 <= max_bad_sample_rate <= 1:
        raise UserError(f"max_bad_sample_rate: must be from 0 to 1, not {max_bad_sample_rate}")


def _join(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))

"""The streams a stage opens: micro batches for training, reachable from any step, and batches for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hornet.batch import Batch
from hornet.data.augment.transforms import EvaluationTransform, TrainTransform
from hornet.data.config import EvaluatedSetConfig, EvaluationConfig, StreamConfig, TrainedSetConfig, TransformConfig
from hornet.data.division import check_division
from hornet.data.order import ORDER_VERSION, Order
from hornet.data.pipeline import (
    PADDING,
    Batches,
    Corrupt,
    EvaluationBatches,
    Failure,
    Pick,
    SeededBatches,
    TrainBatches,
)
from hornet.data.prefetch import ShardPrefetcher
from hornet.data.shared_memory import count_batch_bytes
from hornet.data.whole_samples import find_world
from hornet.data.workers import WorkerPool
from hornet.errors import UserError
from hornet.shards.label_space import LabelSpace
from hornet.shards.shard_set import ShardSet, open_shards
from hornet.world import World


class TrainStream:
    """One rank's micro batches. The state of the stream is the step: nothing of it is saved."""

    micro_batch_size: int
    """Images in a micro batch."""
    num_micro_steps: int
    """Micro batches of this rank in one step."""
    image_size: int
    """Edge of the square images, pixels; of images of several sizes, the longest edge."""
    global_batch_size: int
    """Images in a step, over all ranks."""

    def __init__(
        self,
        config: TrainedSetConfig,
        *,
        shards: ShardSet,
        order: Order,
        world: World,
        micro_batch_size: int,
        dataset: SeededBatches,
        bytes_per_image: int,
    ) -> None:
        self._config = config
        self._bytes_per_image = bytes_per_image
        self.image_size = dataset.image_size
        self.global_batch_size = order.global_batch_size
        self._world = world
        self._order = order
        self._rank_batch_size = order.global_batch_size // world.num_ranks
        self.label_space: LabelSpace = shards.label_space
        self.num_samples = shards.num_samples
        self.num_shards = len(shards.split.shards)
        self.manifest_fingerprint = shards.fingerprint
        """Goes into the run's record; a resumed run must find the same."""
        self.order_version = ORDER_VERSION
        """Version of the order's function; a run goes on only under the same."""
        self.split(micro_batch_size)
        self.steps_per_epoch = order.steps_per_epoch
        """Whole with partial_batch drop, a fraction with carry."""
        self._dataset = dataset
        self._pool: WorkerPool[Batch] = WorkerPool(dataset, num_workers=config.num_workers, prefetch=config.prefetch)
        has_cache = shards.remote is not None and shards.remote.cache is not None
        self._prefetcher = ShardPrefetcher(shards, order) if has_cache and world.local_rank == 0 else None

    def split(self, micro_batch_size: int) -> None:
        """Divide this rank's share of a step into micro batches of another size, before any is read."""
        self.micro_batch_size = micro_batch_size
        self.num_micro_steps = self._rank_batch_size // micro_batch_size

    def count_shared_bytes(self) -> int:
        """Return what this rank's workers may hold in /dev/shm: what they prepare ahead, and two steps' batches."""
        config = self._config
        num_batches = config.num_workers * config.prefetch + 2 * self.num_micro_steps
        batch_bytes = count_batch_bytes(self.micro_batch_size, bytes_per_image=self._bytes_per_image)
        return num_batches * batch_bytes if config.num_workers else 0

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

    def __init__(
        self,
        config: EvaluatedSetConfig,
        *,
        shards: ShardSet,
        world: World,
        batch_size: int,
        dataset: Batches,
        bytes_per_image: int,
    ) -> None:
        self._config = config
        self._bytes_per_image = bytes_per_image
        self._world = world
        self.max_bad_sample_rate = config.max_bad_sample_rate
        """Share of samples that may be left out; the caller's to judge, over all ranks."""
        self.label_space: LabelSpace = shards.label_space
        self.num_samples = shards.num_samples
        self.name = shards.name
        """What the set is called."""
        self.manifest_fingerprint = shards.fingerprint
        self.origin: Mapping[str, Any] = shards.split.origin
        """What the manifest says of where the split came from."""
        self.batch_size = batch_size
        self.num_batches = -(-shards.num_samples // (world.num_ranks * batch_size))
        """Batches of each rank; the last ones may hold padding (is_real False)."""
        self._dataset = dataset
        self._pool: WorkerPool[Batch] = WorkerPool(dataset, num_workers=config.num_workers, prefetch=config.prefetch)

    def iterate(self) -> Iterator[Batch]:
        """Yield this rank's batches, from first to last; padding has `is_real` False."""
        yield from self._pool.run(self._requests())

    def read(self, samples: Sequence[int]) -> Batch:
        """Return the batch of some samples, made in this process; raises UserError as `iterate`."""
        batch = self._dataset.__getitems__(samples)
        if isinstance(batch, Failure):
            raise UserError(batch.message)
        return batch

    def count_shared_bytes(self) -> int:
        """Return what this rank's workers may hold in /dev/shm: what they prepare ahead, and two batches."""
        config = self._config
        num_batches = config.num_workers * config.prefetch + 2
        batch_bytes = count_batch_bytes(self.batch_size, bytes_per_image=self._bytes_per_image)
        return num_batches * batch_bytes if config.num_workers else 0

    def close(self) -> None:
        """End the workers; harmless without any."""
        self._pool.close()
        self._dataset.close()

    def _requests(self) -> Iterator[list[int]]:
        for number in range(self.num_batches):
            start = (number * self._world.num_ranks + self._world.rank) * self.batch_size
            yield [sample if sample < self.num_samples else PADDING for sample in range(start, start + self.batch_size)]


def open_train_stream(
    config: StreamConfig | Path | str,
    *,
    global_batch_size: int,
    micro_batch_size: int | None = None,
    world: World | None = None,
    rank: int | None = None,
    num_ranks: int | None = None,
    seed: int = 0,
    image_size: int | None = None,
    num_workers: int | None = None,
) -> TrainStream:
    """Open a split for training, after checking its files and that the global batch can be divided.

    For a loop of one's own a set's folder or URL, or a pattern of tars, takes the place of the config: images are then
    cropped at random to `image_size` pixels and mirrored, and decoded by `num_workers` processes. `micro_batch_size`
    None is the rank's share of the global batch. Without a `world`, and without `rank` and `num_ranks`, the launcher's
    environment is asked.

    Raises UserError, to be shared with all ranks: each checks its part of the files.
    """
    world = world or find_world(rank, num_ranks)
    if micro_batch_size is None:
        micro_batch_size = max(1, global_batch_size // world.num_ranks)
    config = _complete(config, image_size=image_size, num_workers=num_workers)
    check_division(global_batch_size, num_ranks=world.num_ranks, micro_batch_size=micro_batch_size)
    shards = open_shards(config.shards, config.split, remote=config.remote, world=world, index=config.index)
    return TrainStream(
        config,
        shards=shards,
        order=make_order(config, shards, seed=seed, global_batch_size=global_batch_size),
        world=world,
        micro_batch_size=micro_batch_size,
        dataset=TrainBatches(shards, transform=TrainTransform(config.transform), seed=seed),
        bytes_per_image=3 * config.transform.image_size**2,
    )


def make_order(config: TrainedSetConfig, shards: ShardSet, *, seed: int, global_batch_size: int) -> Order:
    """Return the order in which a run of this seed meets the samples."""
    return Order(
        shard_lengths=shards.split.shard_lengths,
        seed=seed,
        shuffle_window_shards=config.shuffle_window_shards,
        global_batch_size=global_batch_size,
        partial_batch=config.partial_batch,
    )


def _complete(config: StreamConfig | Path | str, *, image_size: int | None, num_workers: int | None) -> StreamConfig:
    """Return the config, or the one that a path stands for."""
    if isinstance(config, StreamConfig):
        if image_size is not None or num_workers is not None:
            raise UserError("image_size, num_workers: stand in the StreamConfig (transform.image_size, num_workers)")
        return config
    if image_size is None:
        raise UserError(f"image_size: say how many pixels the edge of the images of {config} shall have")
    transform = TransformConfig(image_size=image_size, flip_probability=0.5)
    return StreamConfig(shards=config, num_workers=num_workers or 0, transform=transform)


def open_evaluation_stream(
    config: EvaluationConfig,
    *,
    world: World | None = None,
    rank: int | None = None,
    num_ranks: int | None = None,
    corrupt: Corrupt | None = None,
) -> EvaluationStream:
    """Open a split for evaluation, after checking its files, and `corrupt` each image if asked to.

    Without a `world`, and without `rank` and `num_ranks`, the launcher's environment is asked. Raises UserError.
    """
    world = world or find_world(rank, num_ranks)
    shards = open_shards(config.shards, config.split, remote=config.remote, world=world, index=config.index)
    transform = EvaluationTransform(
        image_size=config.image_size, crop_fraction=config.crop_fraction, interpolation=config.interpolation
    )
    return EvaluationStream(
        config,
        shards=shards,
        world=world,
        batch_size=config.batch_size,
        dataset=EvaluationBatches(shards, transform=transform, corrupt=corrupt),
        bytes_per_image=3 * config.image_size**2,
    )

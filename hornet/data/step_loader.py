"""The step over a loader's worker processes, and pipelines that carry the state of their source."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch.utils.data import IterableDataset

from hornet.data.webdataset import TrainSamples
from hornet.data.whole_samples import reraise
from hornet.errors import UserError

Stage = Callable[[Iterator[Any]], Iterable[Any]]
"""As webdataset's: items in, items out."""

SAMPLERS = frozenset(
    {"shuffle", "_shuffle", "detshuffle", "bshuffle", "split_by_node", "split_by_worker", "single_node_only"}
)
"""webdataset's stages that choose or shuffle again."""

DROPPING = frozenset({"_select", "_rsample"})
"""webdataset's stages that drop samples."""


def _name(stage: Any) -> str:
    """Return the name of webdataset's function that a stage calls, `_shuffle`; of another stage its own."""
    return str(getattr(getattr(stage, "f", stage), "__name__", type(stage).__name__))


def _refuse_samplers(stages: Iterable[Any]) -> None:
    for stage in stages:
        name = _name(stage)
        if name in SAMPLERS:
            raise UserError(
                f"{name.lstrip('_')}: two samplers on top of each other; the source shuffles and divides samples over "
                "ranks and workers already, so leave this stage out"
            )


def _refuse_drops(stages: Iterable[Any]) -> None:
    for stage in stages:
        handler = _bind(stage).get("handler", reraise) if hasattr(stage, "kw") else reraise
        is_raising = getattr(handler, "__name__", "") in ("reraise", "reraise_exception")
        if _name(stage) in DROPPING or not is_raising:
            what = "" if is_raising else f" by its handler {getattr(handler, '__name__', handler)}"
            raise UserError(
                f"{_name(stage).lstrip('_')}: may drop samples{what}, and nobody would know that the batches behind it "
                "are of other steps than they count as; let the source do it (require=, handler=), or the stage give "
                "something in their place"
            )


def _list_stages(loader: Any) -> Iterator[Any]:
    """Yield what a WebLoader, a DataLoader, a DataPipeline, a SamplePipeline are made of, the source's side first."""
    parts = loader.stages if isinstance(loader, SamplePipeline) else getattr(loader, "pipeline", [loader])
    for part in parts:
        if hasattr(part, "dataset"):
            yield from _list_stages(part.dataset)
        yield part


def _find_batch_size(stages: Iterable[Any]) -> int | None:
    """Return how many samples an item holds behind some stages; None if none of them makes batches that we know."""
    size = None
    for stage in stages:
        if _name(stage) == "_batched":  # of webdataset
            size = (size or 1) * _read_batch_size(stage)
        elif _name(stage) in ("_unbatched", "_unlisted"):
            size = 1
        elif getattr(stage, "batch_size", None) is not None:  # a DataLoader
            size = (size or 1) * stage.batch_size
    return size


def _list_up_to_workers(stages: Sequence[Any]) -> Sequence[Any]:
    """Return the stages that make what one of several workers hands over, and the loader that has these workers."""
    last = max((number for number, stage in enumerate(stages) if getattr(stage, "num_workers", 0) > 1), default=-1)
    return stages[: last + 1]


def _read_batch_size(stage: Any) -> int:
    return int(_bind(stage)["batchsize"])


def _bind(stage: Any) -> dict[str, Any]:
    """Return the arguments of a stage of webdataset's by name."""
    given = inspect.signature(stage.f).bind(None, *stage.args, **stage.kw)
    given.apply_defaults()
    return given.arguments


class SamplePipeline(IterableDataset[Any]):
    """A source and webdataset's stages behind it, as webdataset.DataPipeline, with the source's state.

    torchdata's StatefulDataLoader finds the state here, in each worker. Stages that hold samples back (buffers) would
    lose them there, and stages that sample again would break the order: UserError for webdataset's.
    """

    def __init__(self, source: TrainSamples, *stages: Stage) -> None:
        _refuse_samplers(stages)
        self.source = source
        self.stages = stages

    def __iter__(self) -> Iterator[Any]:
        items: Any = iter(self.source)
        for stage in self.stages:
            items = stage.run(items) if hasattr(stage, "run") else stage(items)
        return iter(items)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the source in this process; raises UserError if a stage holds back what it has given."""
        if any(_name(stage) == "_batched" for stage in self.stages):
            raise UserError(
                "batched: gives a batch when it has the sample behind it, which a state that is taken within the "
                "pipeline would lose; batch in the loader (batch_size=), or take a StepLoader, whose state counts what "
                "has come out"
            )
        return self.source.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See TrainSamples."""
        self.source.load_state_dict(state)


class StepLoader:
    """A loader over `source` that ends at each epoch's end, and whose state is the step the caller is at.

    `loader` is a DataLoader, a WebLoader, or a pipeline with TrainSamples at its beginning, that gives a batch for
    each `micro_batch_size` samples, with any number of workers, prefetching and kinds of them. Each iteration goes on
    where the one before stopped; workers live on. The state fits any number of ranks and workers.

    It is no DataLoader to Accelerate, whose `prepare` leaves it as it is: nothing is divided a second time.
    """

    def __init__(self, loader: Iterable[Any], source: TrainSamples) -> None:
        """Raise UserError if the loader makes other batches than the source was told, or chooses samples itself."""
        if not isinstance(source, TrainSamples):
            raise UserError(
                f"source: is a {type(source).__name__}, but must be the TrainSamples that the loader reads; samples of "
                "another kind need no StepLoader, since nothing goes on in the middle of them"
            )
        stages = list(_list_stages(loader))
        _refuse_samplers(stages)
        _refuse_drops(stages)
        batch_size = _find_batch_size(stages)
        if batch_size not in (None, source.micro_batch_size):
            raise UserError(
                f"batch_size: the loader makes batches of {batch_size}, the source was given micro_batch_size "
                f"{source.micro_batch_size}; give both the same, so that batches come in the order of the stream"
            )
        within = _list_up_to_workers(stages)
        handed = _find_batch_size(within) or 1
        if within and batch_size is not None and handed != batch_size:
            raise UserError(
                f"batched: makes batches of {batch_size} behind a loader whose workers hand over {handed} at a time in "
                "turns, so batches would not come in the order of the stream; batch within the workers (wds.batched in "
                "the pipeline, or batch_size= of the loader)"
            )
        if not all(getattr(stage, "in_order", True) for stage in stages):
            raise UserError(
                "in_order: is False, so batches would come as workers finish them, and no step would say which were "
                "given; leave it out"
            )
        self._loader = loader
        self._source = source
        self._items: Iterator[Any] | None = None
        self._micro_step = 0

    @property
    def step(self) -> int:
        """The step (0-based) that the next item belongs to."""
        return self._micro_step // self._source.num_micro_steps

    @property
    def epoch(self) -> int:
        """The epoch (0-based) that the next item belongs to."""
        return self._source.epoch_of(self.step)

    def __len__(self) -> int:
        """Items of an epoch, as many on every rank; with partial_batch carry, epochs may have one step more."""
        return int(self._source.steps_per_epoch) * self._source.num_micro_steps

    def __iter__(self) -> Iterator[Any]:
        epoch = self.epoch
        while self.epoch == epoch and not self._is_over():
            if self._items is None:
                self._source.load_state_dict(self.state_dict())
                self._items = iter(self._loader)
            try:
                item = next(self._items)
            except StopIteration:
                raise UserError(
                    f"the loader ended before step {self.step}: a stage or handler behind the source has dropped "
                    "samples, or ends it (with_epoch); let the source do it (require=, handler=, num_steps=), which "
                    "keeps the number of batches"
                ) from None
            except BaseException:
                self._items = None  # it is over: who goes on after all begins another at this step
                raise
            self._micro_step += 1
            yield item

    def _is_over(self) -> bool:
        """Whether all of `num_steps` were given, or more: a state may be of a longer run."""
        return self._source.num_steps is not None and self.step >= self._source.num_steps

    def state_dict(self) -> dict[str, Any]:
        """Return the state behind the last item that the caller received."""
        samples = self._micro_step % self._source.num_micro_steps * self._source.micro_batch_size
        return {**self._source.identity, "step": self.step, "samples": samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at a state, or at {"step": step}; raises UserError if it does not fit, as TrainSamples."""
        samples = state.get("samples", 0)
        if samples % self._source.micro_batch_size:
            raise UserError(
                f"samples: the state was saved {samples} samples into a step, which is no multiple of micro_batch_size "
                f"{self._source.micro_batch_size}; save between steps"
            )
        self._source.load_state_dict(state)
        self._items = None
        self._micro_step = state["step"] * self._source.num_micro_steps + samples // self._source.micro_batch_size

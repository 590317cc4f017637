"""Evaluating weights by themselves, apart from any training run: kinds of weights, sizes and crops side by side.

Not here: what is counted (hornet/training/evaluate.py, measures.py), whose classes decide (judging.py).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from hornet.data.augment.mixing import normalise
from hornet.data.config import EvaluationConfig, MixingConfig
from hornet.data.corruptions.names import NATIVE_SIZE
from hornet.data.loader import EvaluationStream, open_evaluation_stream
from hornet.data.pipeline import Corrupt
from hornet.data.shared_memory import require_shared_memory
from hornet.errors import UserError
from hornet.model.build import build_model, get_classifier_names
from hornet.model.config import ModelConfig
from hornet.shards.imagenet import make_layout
from hornet.shards.label_space import LabelSpace
from hornet.stages.classification import require_readable
from hornet.stages.config import EvaluateConfig
from hornet.stages.corruptions import CorruptionResult, Images, identify, plan_images, summarise
from hornet.stages.judging import IN1K, Judging, describe_missing, plan_judging
from hornet.stages.pretrained import (
    Pretrained,
    adapt,
    choose_network,
    describe_usual,
    load_weights,
    read_pretrained,
    require_head_of,
)
from hornet.stages.probing import Probe, judge_features, read_features
from hornet.stages.recognise import guess_label_space
from hornet.training.config import Weights
from hornet.training.measures import Measurement, Measures
from hornet.training.process_group import choose_device, errors_shared, open_process_group
from hornet.world import World


@dataclass(frozen=True, kw_only=True)
class Row:
    """One evaluation: some weights on one set, at one size and crop."""

    weights: Weights
    """raw: those of the last step; ema: their moving average."""
    corruption: str | None
    """What was done to the images, as gaussian_noise/3; None for nothing."""
    image_size: int
    """Edge of the images, pixels."""
    crop_fraction: float | None
    """Edge of the centre crop over the resized short edge; None if they were warped."""
    measurement: Measurement
    """Counts and sums over the whole set, each image once."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """All that an evaluation of one source on one set tells."""

    model: str
    """The network, by its name in timm."""
    sources: Mapping[Weights, str]
    """Where the weights came from, for people."""
    set_name: str
    """What the set is called."""
    set_fingerprint: str
    """64 hex digits that another set, or another split, does not have; a copy elsewhere has the same."""
    judged: LabelSpace
    """The classes that were judged."""
    missing: tuple[str, ...]
    """Of these, those that the weights do not know; their images count as missed and have no loss."""
    rows: tuple[Row, ...]
    """One for each size, crop, corruption and kind of weights, in the order in which they were made."""
    probes: tuple[Probe, ...] = ()
    """What the features before the head are worth, at evaluation.image_size."""
    step: int | None = None
    """After which step of their run the weights were saved; None for a weight file."""
    departures: tuple[str, ...] = ()
    """Of corruptions that were made here: how they differ from ImageNet-C's, a sentence each."""

    def find_corruptions(self) -> list[tuple[Row, CorruptionResult]]:
        """Return for each weights, size and crop its first row and what its corrupted sets give together."""
        groups: dict[tuple[object, ...], list[Row]] = {}
        for row in self.rows:
            if row.corruption is not None:
                groups.setdefault((row.weights, row.image_size, row.crop_fraction), []).append(row)
        is_imagenet = self.judged.fingerprint == make_layout(IN1K).fingerprint
        return [(rows[0], _summarise(rows, is_imagenet=is_imagenet)) for rows in groups.values()]


def evaluate_weights(config: EvaluateConfig, *, world: World) -> Evaluated:
    """Evaluate weights on a labelled set, over any number of ranks. Every rank calls it.

    Raises UserError if the weights do not fit the model or the set's label space.
    """
    device = choose_device(world)
    with open_process_group(world, device=device, purpose=f"an evaluation of {config.source}"):
        starts = {
            kind: read_pretrained(config.source, weights=kind, label_space=config.label_space) for kind in config.kinds
        }
        _tell(world, "\n".join(f"reading {start.source}" for start in starts.values()))
        with errors_shared():
            passes, departures = plan_images(config)
            first = open_stream(passes[0].data, world=world)
            name, fingerprint = identify(config, first)
        networks = _Networks(config, starts, of_set=first.label_space, world=world, device=device)
        judging = plan_judging(config.judge, of_set=first.label_space, of_weights=networks.label_space)
        if judging.missing:
            _tell(world, describe_missing(judging.missing))
        rows = [
            row
            for size in config.sizes or (config.evaluation.image_size,)
            for row in _evaluate_at(config, passes, networks.build(size), judging.to(device), size=size, world=world)
        ]
        return Evaluated(
            model=networks.model_config.name,
            sources={kind: start.source for kind, start in starts.items()},
            set_name=name,
            set_fingerprint=fingerprint,
            judged=judging.space,
            missing=judging.missing,
            rows=tuple(rows),
            probes=tuple(_probe(config, networks, world=world, device=device)),
            step=next(iter(starts.values())).step,
            departures=departures,
        )


def open_stream(config: EvaluationConfig, *, world: World, corrupt: Corrupt | None = None) -> EvaluationStream:
    """Open a labelled set and see that its batches have room; raises UserError, to be shared with all ranks."""
    stream = open_evaluation_stream(config, world=world, corrupt=corrupt)
    require_shared_memory([stream.count_shared_bytes()], num_local_ranks=world.num_local_ranks)
    return stream


def measure(
    models: Mapping[Weights, nn.Module],
    stream: EvaluationStream,
    *,
    judging: Judging,
    mixing: MixingConfig,
    config: EvaluateConfig,
    device: torch.device,
) -> dict[Weights, Measurement]:
    """Measure models in eval mode in one pass over a stream. Collective.

    Raises UserError on all ranks if images cannot be read or judged.
    """
    measures = {
        kind: Measures(
            num_classes=len(judging.space), num_bins=config.calibration_bins, num_confusions=config.num_confusions
        )
        for kind in models
    }
    is_bf16 = config.precision == "bf16"
    with errors_shared(), torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
        for batch in stream.iterate():
            images = normalise(batch, mean=mixing.mean, std=mixing.std, device=device)
            accepted = judging.accept(batch, device=device)
            for kind, model in models.items():
                judged = judging.judge(model(images).float(), batch)
                measures[kind].add(judged, num_bad=len(batch.bad_samples), accepted=accepted)
    found = {kind: counts.finish() for kind, counts in measures.items()}
    for measurement in found.values():
        require_readable(measurement.evaluation, stream)
    return found


def _evaluate_at(
    config: EvaluateConfig,
    passes: list[Images],
    models: tuple[Mapping[Weights, nn.Module], MixingConfig],
    judging: Judging,
    *,
    size: int,
    world: World,
) -> Iterator[Row]:
    for images in passes:
        for crop in config.crops or (images.data.crop_fraction,):
            data = dataclasses.replace(images.data, image_size=size, crop_fraction=crop)
            with errors_shared():
                stream = open_stream(data, world=world, corrupt=images.corrupt)
            found = measure(
                models[0], stream, judging=judging, mixing=models[1], config=config, device=choose_device(world)
            )
            stream.close()
            for kind, measurement in found.items():
                yield Row(
                    weights=kind,
                    corruption=images.corruption,
                    image_size=size,
                    crop_fraction=crop,
                    measurement=measurement,
                )


def _probe(config: EvaluateConfig, networks: _Networks, *, world: World, device: torch.device) -> Iterator[Probe]:
    if config.probe is None:
        return
    data = config.evaluation
    with errors_shared():
        memory = open_stream(dataclasses.replace(data, split=config.probe.split), world=world)
        queries = open_stream(data, world=world)
    models, mixing = networks.build(data.image_size)
    for kind, model in models.items():
        known, asked = (
            read_features(model, stream, mixing=mixing, precision=config.precision, device=device)
            for stream in (memory, queries)
        )
        num_classes = len(queries.label_space)
        yield judge_features(known, asked, config=config.probe, weights=kind, num_classes=num_classes)


class _Networks:
    """The network of some weights, at any image size."""

    def __init__(
        self,
        config: EvaluateConfig,
        starts: Mapping[Weights, Pretrained],
        *,
        of_set: LabelSpace,
        world: World,
        device: torch.device,
    ) -> None:
        self._config = config
        self._starts = starts
        self._device = device
        first = next(iter(starts.values()))
        self._known = first.description
        self.model_config = self._choose_model(world)
        if not self._known and (remark := describe_usual(self.model_config.name, config.mixing)):
            _tell(world, remark)
        self.label_space = first.label_space or self._guess_label_space(first, of_set, world=world)

    def build(self, size: int) -> tuple[dict[Weights, nn.Module], MixingConfig]:
        """Return each kind's network for an image size, in eval mode, and how its images are normalised."""
        known = self._known
        mixing = MixingConfig(mean=tuple(known["mean"]), std=tuple(known["std"])) if known else self._config.mixing
        models = {}
        for kind, start in self._starts.items():
            model = self._build(len(self.label_space), size)
            adapted = adapt(start, model)
            require_head_of(adapted, self.label_space, name=get_classifier_names(model)[0])
            load_weights(adapted.state_dict, model.to(self._device).eval(), source=start.source)
            models[kind] = model
        return models, mixing

    def _build(self, num_classes: int, size: int) -> nn.Module:
        key = "sizes" if self._config.sizes else "evaluation.image_size"
        return build_model(self.model_config, num_classes=num_classes, image_size=size, seed=0, size_key=key)

    def _choose_model(self, world: World) -> ModelConfig:
        chosen = choose_network(self._config, self._known)
        if chosen.module is not None and self._config.module is None:
            _tell(world, f"importing {chosen.module}, which the checkpoint names")
        return chosen

    def _guess_label_space(self, start: Pretrained, of_set: LabelSpace, *, world: World) -> LabelSpace:
        """Return the set's own label space, or the only known one of as many classes as the head has rows."""
        model = self._build(len(of_set), self._config.evaluation.image_size)
        name = get_classifier_names(model)[0]
        head = adapt(start, model).state_dict.get(name)
        num_rows = 0 if head is None or head.dim() == 0 else len(head)
        by_name = self._config.judge.by_name
        known = guess_label_space(num_rows) if by_name or num_rows != len(of_set) else None
        if known is not None:
            _tell(world, f"the head has {num_rows} rows: taken for {known.name} (label_space says otherwise)")
            return known
        if by_name and head is not None:
            raise UserError(
                f"label_space: {start.source} has a head of {num_rows} rows, which does not say what they mean; name "
                "it, since judge.by_name takes them by name"
            )
        return of_set  # a head of another size, or none, is refused when it is loaded


def _summarise(rows: list[Row], *, is_imagenet: bool) -> CorruptionResult:
    errors = {_parse(row.corruption): 1 - row.measurement.evaluation.top1 / 100 for row in rows}
    return summarise(errors, is_imagenet=is_imagenet and rows[0].image_size == NATIVE_SIZE)


def _parse(corruption: str | None) -> tuple[str, int]:
    assert corruption is not None
    name, _, severity = corruption.partition("/")
    return name, int(severity)


def _tell(world: World, text: str) -> None:
    if world.is_main:
        print(text, file=sys.stderr, flush=True)  # stdout may be one JSON object

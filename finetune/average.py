"""Weights made of those of finished runs, judged on the run's own labelled set and written as a checkpoint.

What is written is read by finetuning, evaluation and export as a run is. Not here: the arithmetic (soup.py).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from torch import Tensor

from finetune.averaged import Averaged, Row, describe, format_table
from finetune.config import AverageConfig, FinetuneConfig
from finetune.soup import average, choose_greedily, mix, require_one_network, round_to
from finetune.start import fit_weights, name_released
from hornet.config import build_config
from hornet.data.config import MixingConfig
from hornet.durable import write_json, write_text
from hornet.errors import UserError
from hornet.model.build import build_model
from hornet.runs.begun import CONFIG_NAME, find_run, read_run_config
from hornet.seeding import derive_seed
from hornet.stages.config import EvaluateConfig, JudgeConfig
from hornet.stages.evaluation import measure, open_stream
from hornet.stages.judging import plan_judging
from hornet.stages.pretrained import Pretrained, choose_network, load_weights, read_pretrained
from hornet.training.checkpoints.checkpoint import list_checkpoints, step_of
from hornet.training.checkpoints.saver import Checkpointer
from hornet.training.checkpoints.state import RunState
from hornet.training.checkpoints.weights import AVERAGE_FILE, MADE_OF_OTHERS
from hornet.training.config import RetentionConfig
from hornet.training.loop import Engine, Writer
from hornet.training.process_group import choose_device, errors_shared, open_process_group
from hornet.world import World


def average_weights(config: AverageConfig, *, world: World) -> Averaged:
    """Make weights of those of `config.sources`, judge and write them. Every rank calls it.

    Raises UserError if sources are damaged, or of different networks or label spaces, or the folder is there already.
    """
    run = _require_run(config.sources[0])
    folder = config.output or run / "averages" / config.method
    if folder.exists():
        raise UserError(f"{folder}: is there already; remove it to make it anew, or give output={folder}-2")
    device = choose_device(world)
    with open_process_group(world, device=device, purpose=f"an average of {config.sources[0]}"):
        with errors_shared():
            judge = _Judge(config, world=world)
        weights, rows, chosen = METHODS[config.method](config, judge)
        judge.close()
        with errors_shared():
            if world.is_main:
                folder.parent.mkdir(parents=True, exist_ok=True)
        averaged = Averaged(folder=folder, rows=tuple(rows), chosen=chosen)
        _write(config, averaged, judge, weights, run=run, world=world)
    return averaged


def _require_run(source: Path) -> Path:
    run = find_run(source)
    if run is None:
        raise UserError(f"{source}: is no run directory and no checkpoint in one; give one with a {CONFIG_NAME}")
    return run


class _Judge:
    """Reads weights, sees that they go together, and counts what they get right on the labelled set."""

    def __init__(self, config: AverageConfig, *, world: World) -> None:
        self._config = config
        self._world = world
        self._device = choose_device(world)
        self.first = read_pretrained(config.sources[0], weights=config.weights, label_space=None)
        require_one_network(self.first, self.first)
        assert self.first.label_space is not None
        self._settings = EvaluateConfig(
            source=config.sources[0], evaluation=config.evaluation, precision=config.precision
        )
        self._stream = open_stream(config.evaluation, world=world)
        self._judging = plan_judging(
            JudgeConfig(), of_set=self._stream.label_space, of_weights=self.first.label_space
        ).to(self._device)
        self._model = build_model(
            choose_network(self._settings, self.first.description),
            num_classes=len(self.first.label_space),
            image_size=config.evaluation.image_size,
            seed=0,
            size_key="evaluation.image_size",
        ).to(self._device)

    def close(self) -> None:
        """End the processes that decode."""
        self._stream.close()

    def read(self, path: Path) -> Mapping[str, Tensor]:
        """Return a source's weights. Collective; raises UserError if they are of another network than the first's."""
        with errors_shared():
            found = read_pretrained(path, weights=self._config.weights, label_space=None)
            require_one_network(self.first, found)
        return found.state_dict

    def judge(self, name: str, weights: Mapping[str, Tensor]) -> Row:
        """Return how weights do. Collective."""
        with errors_shared():
            load_weights(round_to(weights, self.first.state_dict), self._model.eval(), source=name)
        known = self.first.description
        found = measure(
            {"raw": self._model},
            self._stream,
            judging=self._judging,
            mixing=MixingConfig(mean=tuple(known["mean"]), std=tuple(known["std"])),
            config=self._settings,
            device=self._device,
        )["raw"].evaluation
        hits = round(found.top1 * found.num_images / 100)
        row = Row(name=name, num_hits=hits, num_images=found.num_images, top5=found.top5, loss=found.loss)
        if self._world.is_main:
            print(f"{name}: top-1 {row.top1:.3f} % ({hits} of {row.num_images})", file=sys.stderr, flush=True)
        return row


Made = tuple[Mapping[str, Tensor], list[Row], str]
"""Weights, what was judged, the name of the row of the weights."""


def _average_checkpoints(config: AverageConfig, judge: _Judge) -> Made:
    root = _require_run(config.sources[0]) / "checkpoints"
    folders = list_checkpoints(root) if root.exists() else []
    if len(folders) < config.count:
        raise UserError(
            f"{root}: holds {len(folders)} checkpoints, and count={config.count} asks for more; name fewer, and keep "
            "more in the next run (checkpoints.newest)"
        )
    if config.method == "newest":
        folders = folders[-config.count :]
    rows = [judge.judge(folder.name, judge.read(folder)) for folder in folders]
    order = sorted(range(len(rows)), key=lambda number: (-rows[number].num_hits, -step_of(folders[number])))
    kept = sorted(order[: config.count])
    weights = average(judge.read(folders[number]) for number in kept)
    name = f"mean of {len(kept)}"
    return weights, [*_mark(rows, kept), judge.judge(name, weights)], name


def _make_soup(config: AverageConfig, judge: _Judge) -> Made:
    rows = [judge.judge(str(path), judge.read(path)) for path in config.sources]
    tried: list[Row] = []

    def try_with(numbers: Sequence[int]) -> int:
        tried.append(judge.judge(f"soup with {config.sources[numbers[-1]]}", mean_of(numbers)))
        return tried[-1].num_hits

    def mean_of(numbers: Sequence[int]) -> Mapping[str, Tensor]:
        return average(judge.read(config.sources[number]) for number in numbers)

    kept = choose_greedily([row.num_hits for row in rows], try_with)
    weights = mean_of(kept)
    name = f"soup of {len(kept)}"
    return weights, [*_mark(rows, kept), *tried, judge.judge(name, weights)], name


def _interpolate(config: AverageConfig, judge: _Judge) -> Made:
    end = judge.read(config.sources[0])
    with errors_shared():
        start = _read_start(config, judge.first)
    rows, best = [], 0
    for number, alpha in enumerate(config.alphas):
        rows.append(judge.judge(f"alpha {alpha:g}", mix(start, end, share=alpha)))
        best = number if rows[number].num_hits > rows[best].num_hits else best
    return mix(start, end, share=config.alphas[best]), _mark(rows, [best]), rows[best].name


METHODS = {
    "newest": _average_checkpoints,
    "best": _average_checkpoints,
    "soup": _make_soup,
    "interpolate": _interpolate,
}


def _read_start(config: AverageConfig, end: Pretrained) -> dict[str, Tensor]:
    """Return the weights that the run began with: those of its start, resized, the head mapped."""
    run = _require_run(config.sources[0])
    values = read_run_config(run)
    if "start" not in values:
        raise UserError(f"{run}: has no start.from; only a finetuning run has a start to go back to")
    began = build_config(FinetuneConfig, values, source=str(run / CONFIG_NAME))
    assert end.label_space is not None
    network = build_model(
        began.model,
        num_classes=len(end.label_space),
        image_size=began.data.transform.image_size,
        seed=derive_seed("weights", began.run.seed),
    )
    path = config.start_from or began.start.from_
    start = read_pretrained(path, weights=began.start.weights, label_space=began.start.label_space)
    start, _ = name_released(start)
    fit_weights(start, network, label_space=end.label_space)
    state = {name: tensor.detach() for name, tensor in network.state_dict().items()}
    require_one_network(end, replace(end, state_dict=state, source=str(path)))
    return state


def _mark(rows: Sequence[Row], kept: Sequence[int]) -> list[Row]:
    return [replace(row, is_chosen=number in kept) for number, row in enumerate(rows)]


class _Finished:
    """Weights that are only to be saved, in the place of an engine."""

    def __init__(self, weights: Mapping[str, Tensor], *, is_main: bool) -> None:
        self._weights = weights
        self._is_main = is_main

    def save(self, folder: Path, writer: Writer) -> None:
        """Give rank 0's file to the writer."""
        if self._is_main:
            writer.take(folder / AVERAGE_FILE, {"model": dict(self._weights)})


def _write(
    config: AverageConfig,
    averaged: Averaged,
    judge: _Judge,
    weights: Mapping[str, Tensor],
    *,
    run: Path,
    world: World,
) -> None:
    """Write a run directory of one checkpoint, whole or not at all."""
    folder = averaged.folder
    partial = folder.with_name(f".{folder.name}.partial")
    newest = [_find_checkpoint(path) for path in config.sources]
    checkpointer = Checkpointer(
        partial / "checkpoints",
        engine=cast(Engine, _Finished(round_to(weights, judge.first.state_dict), is_main=world.is_main)),
        identity={"engine": MADE_OF_OTHERS, "model": judge.first.description["model"]},
        description=judge.first.description,
        world=world,
        retention=RetentionConfig(asynchronous=False),
        find_best=lambda _steps: None,
        require_sole=lambda: None,
    )
    with errors_shared():
        if world.is_main:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
    checkpointer.save(RunState(step=max(step_of(path) for path in newest)))
    checkpointer.finish()
    checkpointer.close()
    with errors_shared():
        if world.is_main:
            write_text(partial / CONFIG_NAME, (run / CONFIG_NAME).read_text())
            write_json(partial / "average.json", describe(config, averaged))
            write_text(partial / "average.md", "\n".join(format_table(averaged)) + "\n")
            partial.rename(folder)


def _find_checkpoint(source: Path) -> Path:
    found = list_checkpoints(source / "checkpoints") if (source / "checkpoints").exists() else [source]
    return found[-1]

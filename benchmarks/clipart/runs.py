"""The runs of both experiments: which commands, in which order, at which lengths."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.clipart.pairing import choose_equal_steps
from benchmarks.clipart.sets import count_images
from hornet.durable import write_json
from hornet.errors import UserError

PYRAMIDS = ("fpn", "horfpn_gf")
BACKBONES = ("pretrained", "random")
RESIZES = ("bilinear", "spectral")
COARSE_SIZE, FINE_SIZE = 96, 64
EVALUATED_SIZES = (64, 80, 96, 128)
"""Pixels at which the pretrained networks are looked at before finetuning."""
WARMUP_SHARE = 0.05
PLAN_NAME = "plan.json"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the experiments are; another plan needs another folder of runs."""

    model: str = "hornet_femto_gf"
    """Network and backbone."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each is a pair in every comparison."""
    pretrain_steps: int = 1500
    """At 64 pixels on fine classes."""
    finetune_steps: int = 400
    """At 96 pixels on coarse ones."""
    dense_steps: int = 800
    """Of segmentation."""
    batch_size: int = 64
    """Images a step of classification."""
    dense_batch_size: int = 16
    """Images a step of segmentation."""

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds: name at least one, and none twice, not {list(self.seeds)}")
        for name in ("pretrain_steps", "finetune_steps", "dense_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Folders of an experiment."""

    data: Path
    """Folder of the sets."""
    runs: Path
    """Folder of the runs."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One process of its own."""

    name: str
    words: tuple[str, ...]
    """The command behind `python`, in the checkout's root."""
    made: Path
    """File that is there once it has finished."""
    needs: tuple[str, ...] = ()
    """Names of runs that have to be finished before."""


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Training FLOPs by the project's own count."""

    fine: int
    """Of one image at 64 pixels, under the head of the fine classes."""
    coarse: int
    """Of one image at 96 pixels, under the head of the coarse classes."""
    scratch_steps: int
    """Steps from scratch at 96 pixels that cost what pretraining and finetuning cost together."""

    def count(self, plan: Plan) -> dict[str, int]:
        """Return the FLOPs of each stage's run."""
        return {
            "pretrain": plan.pretrain_steps * plan.batch_size * self.fine,
            "finetune": plan.finetune_steps * plan.batch_size * self.coarse,
            "scratch": self.scratch_steps * plan.batch_size * self.coarse,
        }


def compute_flops(plan: Plan, place: Place) -> Compute:
    """Count what an image costs in each stage, and so how long the runs from scratch are; raises UserError."""
    import torch

    from hornet.model.build import build_model
    from hornet.model.config import ModelConfig
    from hornet.model.cost import count_training_flops

    found = {}
    for kind, size in (("fine", FINE_SIZE), ("coarse", COARSE_SIZE)):
        count_images(place.data / kind, "train")
        space = json.loads((place.data / kind / "_info.json").read_text())["label_space"]
        with torch.device("meta"):
            model = build_model(
                ModelConfig(name=plan.model), num_classes=len(space["classes"]), image_size=size, seed=0
            )
        found[kind] = count_training_flops(model, size)
    stages = [(plan.pretrain_steps, found["fine"]), (plan.finetune_steps, found["coarse"])]
    return Compute(**found, scratch_steps=choose_equal_steps(stages=stages, flops=found["coarse"]))


def hold_plan(plan: Plan, place: Place) -> Compute:
    """Write down, or find again, what the runs of a folder are; raises UserError if they are of another plan."""
    path, mine = place.runs / PLAN_NAME, json.loads(json.dumps(asdict(plan)))
    if path.exists():
        known = json.loads(path.read_text())
        changed = [
            f"{key} {known['plan'].get(key)}, not {value}"
            for key, value in mine.items()
            if known["plan"].get(key) != value
        ]
        if changed:
            raise UserError(f"{place.runs}: holds runs of another plan ({'; '.join(changed)}); choose another --runs")
        return Compute(**known["compute"])
    compute = compute_flops(plan, place)
    place.runs.mkdir(parents=True, exist_ok=True)
    write_json(path, {"plan": mine, "compute": asdict(compute)})
    return compute


def read_plan(runs: Path) -> tuple[Plan, Compute]:
    """Return what a folder's runs are; raises UserError if it holds none."""
    path = runs / PLAN_NAME
    if not path.exists():
        raise UserError(f"{runs}: holds no runs; make them with `python -m benchmarks.clipart run`")
    known: Mapping[str, Any] = json.loads(path.read_text())
    values: dict[str, Any] = {**known["plan"], "seeds": tuple(known["plan"]["seeds"])}
    return Plan(**values), Compute(**known["compute"])


def list_runs(plan: Plan, compute: Compute, place: Place, *, num_workers: int) -> list[Run]:
    """Return all runs, those first that tell most."""
    seeds = plan.seeds
    runs = [_pretrain(plan, place, seed) for seed in seeds]
    runs += [_finetune(plan, place, seed, resize="bilinear") for seed in seeds]
    runs += [_scratch(plan, compute, place, seed) for seed in seeds]
    runs += [run for seed in seeds for run in _segment(plan, place, seed)]
    runs += [_finetune(plan, place, seed, resize="spectral") for seed in seeds]
    runs = [dataclasses.replace(run, words=(*run.words, f"data.num_workers={num_workers}")) for run in runs]
    return runs + [_evaluate(place, seed, resize=resize) for seed in seeds for resize in RESIZES]


def _pretrain(plan: Plan, place: Place, seed: int) -> Run:
    settings = _epochs(plan.pretrain_steps, plan, place, "fine")
    return _train(f"pretrain-{seed}", "pretrain", "pretrain", plan, place, seed, settings, needs=())


def _scratch(plan: Plan, compute: Compute, place: Place, seed: int) -> Run:
    """Train by the recipe of pretraining on what is finetuned on."""
    sizes = [f"{key}.image_size={COARSE_SIZE}" for key in ("data.transform", "evaluation")]
    settings = [*_epochs(compute.scratch_steps, plan, place, "coarse"), *sizes]
    return _train(f"scratch-{seed}", "pretrain", "pretrain", plan, place, seed, settings, needs=())


def _finetune(plan: Plan, place: Place, seed: int, *, resize: str) -> Run:
    start = f"pretrain-{seed}"
    settings = [*_epochs(plan.finetune_steps, plan, place, "coarse"), f"model.resize={resize}"]
    settings.append(f"start.from={place.runs / start}")
    return _train(f"finetune-{resize}-{seed}", "finetune", "finetune", plan, place, seed, settings, needs=(start,))


def _segment(plan: Plan, place: Place, seed: int) -> Iterator[Run]:
    for pyramid in PYRAMIDS:
        for backbone in BACKBONES:
            start = f"pretrain-{seed}"
            settings = [f"{key}.shards={place.data / 'scenes'}" for key in ("data", "evaluation")]
            settings += [f"{key}.index={place.runs / 'indexes'}" for key in ("data", "evaluation")]
            settings += [f"model.pyramid={pyramid}", f"schedule.num_steps={plan.dense_steps}"]
            settings += [f"schedule.warmup_steps={round(WARMUP_SHARE * plan.dense_steps)}"]
            settings += [f"start.from={place.runs / start}"] if backbone == "pretrained" else []
            needs = (start,) if backbone == "pretrained" else ()
            name = f"dense-{backbone}-{pyramid}-{seed}"
            yield _train(name, "dense", "segmentation", plan, place, seed, settings, needs=needs)


def _evaluate(place: Place, seed: int, *, resize: str) -> Run:
    start, output = f"pretrain-{seed}", place.runs / f"evaluate-{resize}-{seed}"
    sizes = ",".join(map(str, EVALUATED_SIZES))
    words = ("launch/evaluate.py", str(place.runs / start), f"sizes=[{sizes}]", f"resize={resize}", f"output={output}")
    return Run(name=output.name, words=words, made=output / "evaluation.json", needs=(start,))


def _train(
    name: str,
    stage: str,
    config: str,
    plan: Plan,
    place: Place,
    seed: int,
    settings: list[str],
    *,
    needs: tuple[str, ...],
) -> Run:
    size = plan.dense_batch_size if stage == "dense" else plan.batch_size
    words = [f"launch/{stage}.py", "--config", f"configs/clipart/{config}.yaml", f"run.root={place.runs}"]
    words += [f"run.name={name}", f"run.seed={seed}", f"model.name={plan.model}", *settings]
    words += [f"global_batch_size={size}", f"micro_batch_size={size}"]
    return Run(name=name, words=tuple(words), made=place.runs / name / "summary.json", needs=needs)


def _epochs(steps: int, plan: Plan, place: Place, kind: str) -> list[str]:
    """Return settings of a run of so many steps: configs count epochs, and an epoch drops its last samples."""
    in_an_epoch = count_images(place.data / kind, "train") // plan.batch_size
    if in_an_epoch < 1:
        raise UserError(f"batch_size: {plan.batch_size} is more than the images of {place.data / kind}")
    num_epochs = {"schedule.num_epochs": steps, "schedule.warmup_epochs": round(WARMUP_SHARE * steps)}
    lengths = [f"{key}={count / in_an_epoch!r}" for key, count in num_epochs.items()]
    return [*lengths, *(f"{key}.shards={place.data / kind}" for key in ("data", "evaluation"))]

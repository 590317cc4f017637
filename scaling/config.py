"""The config of a study: groups of runs, what is measured of them, and where they run. One YAML file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hornet.config import ConfigError, Settings, build_config, read_settings
from hornet.field_types import Arguments
from hornet.training.config import Weights
from scaling.groups import GroupConfig, find_problems_of_parents, list_names

LAWS = ("power", "saturating", "bounded", "shifted", "chinchilla", "bounded_joint", "kaplan", "repeated", "three_term")
"""Those that a study may be asked to try; each is in laws.py."""

FOLDERS = ("cells", "figures", "lists", "logs", "measure")
"""What a study keeps beside its groups."""


@dataclass(frozen=True, kw_only=True)
class NameConfig(Settings):
    """What the study is called."""

    name: str
    """Folder below `root`; letters, digits, `_`, `-` and `.`."""
    root: Path = Path("runs/scaling")
    """Where studies are kept, on a disk that all nodes share."""

    def _find_problems(self) -> Iterator[str]:
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            yield f"name: may hold letters, digits, _ - and ., not {self.name!r}"


@dataclass(frozen=True, kw_only=True)
class SubsetsConfig:
    """Shares of a set's training images, nested, that copy nothing."""

    source: Path | None = None
    """Folder of the set that all groups train and are measured on; null takes each base config's own."""
    folder: Path | None = None
    """Where the shares are made; null makes them beside their set."""
    seed: int = 0
    """Of the choice; for one seed a smaller share lies inside a larger one."""


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """What is taken from a finished run."""

    metric: Literal["loss", "top1_error"] = "loss"
    """loss: cross entropy of the evaluation set, without smoothing; top1_error: share of its images that are wrong."""
    weights: Weights = "raw"
    """Which weights' evaluation: the last step's, or their moving average."""


@dataclass(frozen=True, kw_only=True)
class FitConfig(Settings):
    """Which laws are tried, on what."""

    laws: tuple[str, ...] = ()
    """Names of laws (docs/scaling.md); empty tries all that the study's factors allow."""
    data: Literal["U", "T"] = "U"
    """What counts as data beside the size: unique images (U), or images seen (T). Where they vary each for itself, laws
    of both are tried unless `laws` says otherwise."""
    resamples: int = 1000
    """How often the cells are sampled again for an interval."""
    level: float = 0.95
    """Probability that an interval is to cover what it is of: 0.95 for 95 %."""

    def _find_problems(self) -> Iterator[str]:
        for name in self.laws:
            if name not in LAWS:
                yield f"laws: {name!r} is not one of {', '.join(LAWS)}"
        if self.resamples < 2:
            yield f"resamples: must be at least 2, not {self.resamples}"
        if not 0 < self.level < 1:
            yield f"level: must lie between 0 and 1, not {self.level}"


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig(Settings):
    """What this machine lends to the study."""

    cores: int = 2
    """Processor cores for all runs together."""
    threads: int = 1
    """Cores of one run."""
    memory_gb: float = 16
    """Host memory for all runs together, 1e9 bytes."""
    run_memory_gb: float = 2
    """Host memory of one run, 1e9 bytes."""
    gpus: int = 0
    """GPUs; a run has one of them. 0 runs on the cores alone."""
    runs_per_gpu: int = 1
    """Runs that share a GPU at the same time: small networks leave most of one idle. Its memory must hold them all."""
    retries: int = 1
    """How often a run that failed is started again, to go on from its checkpoint, before it counts as failed."""

    def _find_problems(self) -> Iterator[str]:
        if self.threads < 1:
            yield f"threads: must be at least 1, not {self.threads}"
        elif self.cores < self.threads:
            yield f"cores: {self.cores} are fewer than the {self.threads} threads of one run"
        if not 0 < self.run_memory_gb <= self.memory_gb:
            most = f"memory_gb ({self.memory_gb:g})"
            yield f"run_memory_gb: must be over 0 and at most {most}, not {self.run_memory_gb:g}"
        for name in ("gpus", "retries"):
            if getattr(self, name) < 0:
                yield f"{name}: must be 0 or more, not {getattr(self, name)}"
        if self.runs_per_gpu < 1:
            yield f"runs_per_gpu: must be at least 1, not {self.runs_per_gpu}"
        elif self.runs_per_gpu > 1 and self.gpus == 0:
            yield f"runs_per_gpu: {self.runs_per_gpu} runs have no GPU to share; say how many there are in gpus"

    @property
    def num_slots(self) -> int:
        """How many runs there are at a time."""
        slots = min(self.cores // self.threads, int(self.memory_gb / self.run_memory_gb))
        return min(slots, self.gpus * self.runs_per_gpu) if self.gpus else slots

    def find_gpu(self, slot: int) -> int | None:
        """Return the number of the GPU of a slot: full slots are spread evenly. None without GPUs."""
        return slot % self.gpus if self.gpus else None


@dataclass(frozen=True, kw_only=True)
class StudyConfig(Settings):
    """A study, but for `per` and what its groups hold."""

    study: NameConfig
    """Name and place."""
    data: SubsetsConfig = field(default_factory=SubsetsConfig)
    """The set, and its shares."""
    groups: Arguments
    """By name, what a group's runs are: base, overrides, families, sizes, fractions, seeds, epochs, images_seen,
    images_by_fraction, warmup_share, trunk, from, predict_first, pilot."""
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    """What is taken from a finished run."""
    fit: FitConfig = field(default_factory=FitConfig)
    """Which laws are fitted to the results, and how intervals are found."""
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    """What this machine lends to the study."""

    def _find_problems(self) -> Iterator[str]:
        if not self.groups:
            yield "groups: is empty, so the study has no runs; name at least one group"

    @property
    def folder(self) -> Path:
        """Where the study and its runs are kept."""
        return self.study.root / self.study.name


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study that was read: its config, and its groups in their order."""

    config: StudyConfig
    per: dict[str, tuple[str, ...]]
    """By the name of a family, a size, or both (gf-atto), `key=value` for all of its runs."""
    groups: dict[str, GroupConfig]
    path: Path
    """The YAML file that it was read from."""

    @property
    def folder(self) -> Path:
        """Where the study and its runs are kept."""
        return self.config.folder


def read_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study's file; raises ConfigError with all that is wrong in it, the groups included."""
    values, problems = read_settings(path, overrides)
    per = _read_per(values.pop("per", None), problems)
    try:
        config = build_config(StudyConfig, values, source=str(path), problems=problems)
    except ConfigError as error:
        problems, config = error.problems, None
    groups: dict[str, GroupConfig] = {}
    asked = values.get("groups")
    for name, content in asked.items() if isinstance(asked, dict) else ():
        if name in FOLDERS:
            problems.append(f"groups.{name}: is where the study keeps its {name}; choose another name")
        if not isinstance(content, dict):
            problems.append(f"groups.{name}: must hold keys")
            continue
        try:
            groups[str(name)] = build_config(GroupConfig, content, source=str(path))
        except ConfigError as error:
            problems += [f"groups.{name}.{problem}" for problem in error.problems]
    problems += find_problems_of_parents(groups, [str(name) for name in asked] if isinstance(asked, dict) else ())
    if config is not None and not problems:
        names = {name for group in groups.values() for name in list_names(group)}
        unknown = [name for name in per if name not in names]
        problems += [f"per.{name}: no group has a family or size of that name" for name in unknown]
    if config is None or problems:
        raise ConfigError(str(path), problems)
    return Study(config=config, per=per, groups=groups, path=path)


def _read_per(content: object, problems: list[str]) -> dict[str, tuple[str, ...]]:
    """Return `per`, whose names need not be words (7x7), and add to `problems` what is wrong in it."""
    if content is not None and not isinstance(content, dict):
        problems.append("per: must hold names of families and sizes, each with a list of key=value")
        return {}
    per = {}
    for name, texts in (content or {}).items():
        if not isinstance(texts, list) or not all(isinstance(text, str) and "=" in text for text in texts):
            problems.append(f"per.{name}: must be a list of key=value")
        else:
            per[str(name)] = tuple(texts)
    return per

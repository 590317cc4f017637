"""The config of a study: groups of runs, what is measured of them, and where they run. One YAML file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hornet.config import ConfigError, Settings, build_config, read_settings
from hornet.field_types import Arguments, NameOrPath
from hornet.training.config import Weights

LAWS = ("power", "saturating", "bounded", "chinchilla", "bounded_joint", "kaplan")
"""Those that a study may be asked to try; each is in laws.py."""

FOLDERS = ("cells", "figures", "lists", "logs", "measure")
"""What a study keeps beside its groups."""

AXES = ("families", "sizes", "fractions", "seeds")


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
    """What counts as data beside the size: unique images (U), or images seen (T)."""
    resamples: int = 1000
    """How often the cells are sampled again for an interval."""
    level: float = 0.95
    """Probability of an interval."""

    def _find_problems(self) -> Iterator[str]:
        for name in self.laws:
            if name not in LAWS:
                yield f"laws: {name!r} is not one of {', '.join(LAWS)}"
        if self.resamples < 1:
            yield f"resamples: must be at least 1, not {self.resamples}"
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
class GroupConfig(Settings):
    """Runs of one kind: every combination of what is listed."""

    base: NameOrPath
    """A config of a pretraining, or of a finetuning; {family} and {size} in it stand for the run's own."""
    overrides: tuple[str, ...] = ()
    """`key=value` as on the command line, for all of the group's runs; {family} and {size} as in `base`."""
    families: tuple[str, ...] | None = None
    """What is compared, such as gf and 7x7; null for one family without a name."""
    sizes: tuple[str, ...] | None = None
    """Sizes of the network, such as atto and femto; null where the base says it."""
    fractions: tuple[float, ...] | None = None
    """Shares of the training images, over 0 and up to 1; null for all of them."""
    seeds: tuple[int, ...] | None = None
    """Values of run.seed; null for 0."""
    epochs: tuple[float, ...] | None = None
    """Lengths in epochs; null for the base's own length."""
    images_seen: tuple[int, ...] | None = None
    """Lengths in images, whatever the share, instead of `epochs`."""
    images_by_fraction: tuple[int, ...] | None = None
    """One length in images for each of `fractions`, in their order, instead of `epochs` and `images_seen`."""
    warmup_share: float | None = None
    """Warm-up as a share of the run, 0 to 1, instead of the base's epochs."""
    trunk: bool = False
    """Whether runs that differ in length alone share their beginning: the longest is the trunk, the others branch off
    where their cooldown begins, to the bit as if they had begun at step 0. Needs schedule.shape=wsd; warmup_share is
    then of the shortest."""
    from_: str | None = None
    """For finetunings: the group whose runs they start from. The other lists then choose among those runs."""
    predict_first: bool = False
    """Whether these runs are held out: fits do not see them, and they start once their results are foretold."""
    pilot: tuple[str, ...] | None = None
    """For a pilot: `key=value` that are tried, one a run. Such runs come first, and no fit sees them;
    `launch/scaling.py pilot` says which was best of each family and size, in words for `per`."""

    def _find_problems(self) -> Iterator[str]:
        for name in (*AXES, "epochs", "images_seen", "pilot"):
            if getattr(self, name) == ():
                yield f"{name}: is empty, so the group has no runs; name at least one, or leave the key out"
            yield from _find_twice(name, getattr(self, name) or ())
        for name in ("families", "sizes"):
            for text in getattr(self, name) or ():
                if not re.fullmatch(r"\w[\w.-]*", text):
                    yield f"{name}: may hold letters, digits, _ - and ., not {text!r}"
        for fraction in self.fractions or ():
            if not 0 < fraction <= 1:
                yield f"fractions: must be over 0 and at most 1, not {fraction:g}"
        if self.epochs is not None and self.images_seen is not None:
            yield "images_seen: stands beside epochs; give one of the two"
        yield from self._find_problems_by_fraction()
        for name in ("epochs", "images_seen", "images_by_fraction"):
            for length in getattr(self, name) or ():
                if not length > 0:
                    yield f"{name}: must be above 0, not {length:g}"
        if self.warmup_share is not None and not 0 <= self.warmup_share <= 1:
            yield f"warmup_share: must lie in 0..1, not {self.warmup_share:g}"
        if self.trunk and len(self.epochs or self.images_seen or ()) < 2:
            yield "trunk: is shared by runs of several lengths; list at least two in epochs or images_seen"
        if self.trunk and self.from_ is not None:
            yield "trunk: is for pretrainings; leave it out of finetunings"
        for text in self.pilot or ():
            if not re.fullmatch(r"[\w.]+=[\w.-]+", text):
                yield f"pilot: {text!r} is not key=value of letters, digits and _ . -"
        for name in ("from_", "trunk", "predict_first"):
            if self.pilot is not None and getattr(self, name):
                yield f"pilot: stands beside {name.rstrip('_')}; a pilot is of pretrainings that no other run needs"
        for name, axis in (("{family}", self.families), ("{size}", self.sizes)):
            if axis is None and self.from_ is None and any(name in text for text in (self.base, *self.overrides)):
                yield f"base: {name} stands in it or in overrides, but the group lists none"

    def _find_problems_by_fraction(self) -> Iterator[str]:
        if self.images_by_fraction is None:
            return
        if self.epochs is not None or self.images_seen is not None:
            yield "images_by_fraction: stands beside epochs or images_seen; give one of the three"
        if self.from_ is not None:
            yield "images_by_fraction: is for pretrainings; give a finetuning epochs or images_seen"
        elif len(self.images_by_fraction) != len(self.fractions or ()):
            yield (
                f"images_by_fraction: has {len(self.images_by_fraction)} lengths for {len(self.fractions or ())} "
                "fractions; give one for each"
            )


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
    """Laws."""
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
    """The file."""

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
    problems += _find_problems_of_parents(groups, [str(name) for name in asked] if isinstance(asked, dict) else ())
    if config is not None and not problems:
        names = {name for group in groups.values() for name in _list_names(group)}
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


def _list_names(group: GroupConfig) -> Iterator[str]:
    """Yield what `per` may name: families, sizes, and FAMILY-SIZE."""
    families, sizes = group.families or (), group.sizes or ()
    yield from (*families, *sizes, *(f"{family}-{size}" for family in families for size in sizes))


def _find_problems_of_parents(groups: dict[str, GroupConfig], names: Sequence[str]) -> Iterator[str]:
    for name, group in groups.items():
        if group.from_ is None:
            continue
        parent = groups.get(group.from_)
        if group.from_ not in names:
            yield f"groups.{name}.from: there is no group {group.from_!r}; groups are {', '.join(names)}"
        elif parent is not None and parent.pilot is not None:
            yield f"groups.{name}.from: {group.from_} is a pilot; name a group of the study's own pretrainings"
        elif parent is not None and parent.from_ is not None:
            yield f"groups.{name}.from: {group.from_} is a finetuning itself; name the group of the pretrainings"
        if group.predict_first:
            yield f"groups.{name}.predict_first: laws foretell pretrainings; leave it out of finetunings"


def _find_twice(name: str, values: Sequence[float | str]) -> Iterator[str]:
    for value in sorted({each for each in values if values.count(each) > 1}, key=str):
        yield f"{name}: holds {value} twice, so runs would stand twice in the study; name it once"

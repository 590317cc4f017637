"""The config of a training run, apart from what one stage adds, and that of an evaluation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hornet.config import Settings, resumable
from hornet.data.config import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Channels,
    EvaluationConfig,
    Interpolation,
    MixingConfig,
    StreamConfig,
)
from hornet.data.corruptions.names import COUNTED, EXTRA
from hornet.data.division import find_batch_problems
from hornet.field_types import Arguments, NameOrPath
from hornet.model.config import ModelConfig, find_image_size_problems, find_module_problems
from hornet.model.sizes import Resize
from hornet.runs.directory import RunConfig
from hornet.stages.recipe import RecipeConfig
from hornet.training.config import (
    CadenceConfig,
    GuardConfig,
    OptimizerConfig,
    ProfileConfig,
    RetentionConfig,
    ScheduleConfig,
    TrackingConfig,
    Weights,
    find_best_problems,
)


@dataclass(frozen=True, kw_only=True)
class StageConfig(Settings):
    """One training run, apart from its engine and its starting weights."""

    run: RunConfig
    """Name, place and seed."""
    model: ModelConfig
    """Which network, and what is switched on in it."""
    data: StreamConfig
    """Shards, their order and the augmentation."""
    mixing: MixingConfig
    """What happens to whole batches on the device: normalising, mixup, cutmix, label smoothing."""
    evaluation: EvaluationConfig | None = None
    """A labelled set to evaluate on; null for none."""
    optimizer: OptimizerConfig
    """AdamW, layer decay, clipping, EMA."""
    schedule: ScheduleConfig
    """Length of the run and learning rates."""
    cadence: CadenceConfig
    """How often to log, save, evaluate, render images."""
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    """The published recipe that the run is compared with, and how gradients are clipped."""
    checkpoints: RetentionConfig = field(default_factory=RetentionConfig)
    """How checkpoints are written, and which are kept."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """Steps that are dropped, batches that are left out, going back."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Who is shown the run: TensorBoard, Weights & Biases."""
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    """Steps of rank 0 that are profiled."""
    global_batch_size: int
    """Images per optimizer step, over all ranks; gradient accumulation follows from it."""
    micro_batch_size: int | Literal["auto"] = resumable()
    """Images per forward pass and rank; auto takes the most that fit in memory. Images are mixed within it: another
    size gives other partners."""

    def _find_problems(self) -> Iterator[str]:
        name = self.model.name
        yield from find_image_size_problems(self.data.transform.image_size, model=name, key="data.transform.image_size")
        if self.evaluation is not None:
            yield from find_image_size_problems(self.evaluation.image_size, model=name, key="evaluation.image_size")
        yield from find_best_problems(self.checkpoints, self.cadence, has_set=self.evaluation is not None)
        if self.run.branch_from is not None and self.schedule.shape != "wsd":
            yield (
                f"run.branch_from: needs schedule.shape=wsd; under a {self.schedule.shape} every learning rate follows "
                "from the run's length, so no other run has the same beginning"
            )
        if self.recipe.clipping != "standard" and self.optimizer.clip_grad_norm is None:
            yield (
                f"recipe.clipping: {self.recipe.clipping} needs optimizer.clip_grad_norm; set it, or choose standard"
            )
        yield from find_batch_problems(self.global_batch_size, self.micro_batch_size)


@dataclass(frozen=True, kw_only=True)
class SourceConfig(Settings):
    """Finished weights, and how their network is built."""

    source: Path
    """A run directory, a checkpoint folder in one, a weight file or a folder of one."""
    model: str | None = None
    """For a weight file: its network's name in timm; a checkpoint knows its own."""
    module: str | None = None
    """For a weight file: the module that registers the network, as model.module of a training run."""
    arguments: Arguments | None = None
    """For a weight file: the network's arguments, as model.arguments of a training run."""
    resize: Resize | None = None
    """How global filters are brought to another image size, as model.resize of a training run; null as the run said,
    for a weight file bilinear."""

    def _find_problems(self) -> Iterator[str]:
        yield from find_module_problems(self.module)


ExportFormat = Literal["timm", "original", "onnx", "torch_export", "aot_inductor"]


@dataclass(frozen=True, kw_only=True)
class ExportConfig(SourceConfig):
    """Which weights go out, and as what."""

    output: Path
    """Folder to make."""
    formats: tuple[ExportFormat, ...] = ("timm", "original")
    """timm: safetensors and config.json in the layout of timm's hub; original: a .pth as the original code's; onnx;
    torch_export: a program of torch.export; aot_inductor: that program compiled for CPUs like this machine's."""
    weights: Weights = "raw"
    """Which weights of a checkpoint or file: the last step's, or their moving average."""
    label_space: NameOrPath | None = None
    """For a weight file, what its head means: a known name, an `_info.json` or a list; null if unknown."""
    image_size: int
    """Pixels a side that the network is built for; for a run by default those it evaluates at."""
    crop_fraction: float | None = 0.875
    """Edge of the centre crop over the resized short edge, as written down for others; null warps the whole image."""
    interpolation: Interpolation = "bicubic"
    """Filter of the resize, as written down for others."""
    mean: Channels = IMAGENET_MEAN
    """For a weight file: subtracted from each channel of 0..1; a checkpoint knows its own."""
    std: Channels = IMAGENET_STD
    """For a weight file: what the difference is divided by."""
    license: str | None = None
    """Of the weights, in the hub's words, such as cc-by-nc-4.0; null says none."""
    push_to: str | None = None
    """USER/NAME on the model hub, to which the folder goes, as whoever is logged in; null: nowhere."""
    push_public: bool = False
    """Everybody may see what is pushed, if the repository is new; else its owner alone."""

    def _find_problems(self) -> Iterator[str]:
        yield from super()._find_problems()
        if self.push_to is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.push_to):
            yield f"push_to: {self.push_to!r} is no USER/NAME"
        if self.push_public and self.push_to is None:
            yield "push_public: has no effect without push_to; name the repository, or leave it out"
        yield from find_image_size_problems(self.image_size, model=self.model, key="image_size")
        if not self.formats:
            yield "formats: is empty; name at least one of timm, original, onnx, torch_export, aot_inductor"
        if self.crop_fraction is not None and not 0 < self.crop_fraction <= 1:
            yield f"crop_fraction: must be over 0 and at most 1, or null, not {self.crop_fraction}"
        if min(self.std) <= 0:
            yield f"std: must be over 0 in each channel, not {self.std}"


@dataclass(frozen=True, kw_only=True)
class JudgeConfig(Settings):
    """By which labels logits are judged, where the set's are not those of the weights."""

    by_name: bool = False
    """Take each class's row of the head by its name (synset) where set and weights number classes differently; else
    they must be the same."""
    subset: NameOrPath | None = None
    """Classes among which the highest logit is sought: imagenet-a or imagenet-r (200 each), a known label space or a
    list; images of other classes are left out; null for the set's own."""
    numbers_of: str | None = None
    """The set's class names are numbers of this label space, as ImageNet-V2's folders are of imagenet-1k."""
    real_labels: bool = False
    """Judge by ReaL's labels too, of several classes or none; for ILSVRC-2012's validation set."""

    def _find_problems(self) -> Iterator[str]:
        if self.subset is not None and not self.by_name:
            yield f"subset: {self.subset} needs by_name=true, since its classes are found by name"


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(Settings):
    """Frozen features, judged by themselves."""

    split: str = "train"
    """Split of evaluation.shards whose images are the memory: neighbours are sought among them, a linear classifier is
    fitted to them. They are seen as those that are evaluated, without augmentation."""
    neighbours: tuple[int, ...] = (10, 20)
    """Nearest images that vote, for each number a result."""
    temperature: float = 0.07
    """A vote weighs exp(cosine / temperature)."""
    linear_l2: tuple[float, ...] = ()
    """Weights of the penalty, half the sum of squares, of linear classifiers: a result for each; empty for none."""

    def _find_problems(self) -> Iterator[str]:
        if not self.neighbours or min(self.neighbours) < 1:
            yield f"neighbours: must name at least one number, each at least 1, not {list(self.neighbours)}"
        if self.temperature <= 0:
            yield f"temperature: must be above 0, not {self.temperature:g}"
        if any(l2 < 0 for l2 in self.linear_l2):
            yield f"linear_l2: must be 0 or more, not {min(self.linear_l2):g}"


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(SourceConfig):
    """What to evaluate, on what."""

    weights: Weights | Literal["both"] = "raw"
    """Which weights of a checkpoint or file: the last step's, their moving average, or both side by side."""
    label_space: NameOrPath | None = None
    """For a weight file, what its head means: a known name, an `_info.json` or a list; null takes the set's own, or the
    only known one of that many classes."""
    evaluation: EvaluationConfig
    """The labelled set, and how its images are brought to the network."""
    sizes: tuple[int, ...] = ()
    """Image sizes to evaluate at, one after the other; empty for evaluation.image_size alone."""
    crops: tuple[float | None, ...] = ()
    """Crop fractions to evaluate with at each size, null to warp; empty for evaluation.crop_fraction alone."""
    corruptions: bool = False
    """Evaluate on images with the corruptions of ImageNet-C too: made here of those of evaluation.shards, or, if that
    is a folder of sets CORRUPTION/SEVERITY, read from there."""
    corruption_names: tuple[str, ...] = ()
    """Which of the 15 corruptions and the 4 extra ones, as fog; empty for all, of a folder those that are in it."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """By which labels logits are judged, where the set's are not those of the weights."""
    probe: ProbeConfig | None = None
    """Judge the features before the head too, by neighbours and linear classifiers; null for no."""
    calibration_bins: int = 15
    """Bins of the calibration error."""
    num_confusions: int = 20
    """Most confused pairs of classes to list."""
    output: Path | None = None
    """Folder for evaluation.json, evaluation.md and evaluation.svg; null: RUN/evaluations/SET_SPLIT, for
    another question to the same set SET_SPLIT-2 and so on; for a weight file nothing is written."""
    precision: Literal["bf16", "fp32"] = "fp32"
    """bf16: under autocast; for a run, by default as the run itself evaluates, for a weight file fp32, as the
    original."""
    mixing: MixingConfig = resumable(MixingConfig())
    """For a weight file: its mean and std; a checkpoint knows its own."""

    def _find_problems(self) -> Iterator[str]:
        yield from super()._find_problems()
        for key, size in (("evaluation.image_size", self.evaluation.image_size), *(("sizes", s) for s in self.sizes)):
            yield from find_image_size_problems(size, model=self.model, key=key)
        if self.evaluation.per_image:
            yield "evaluation.per_image: is for training runs, whose directory takes the file; leave it out here"
        listed = {"sizes": self.sizes, "crops": self.crops, "corruption_names": self.corruption_names}
        for key, values in listed.items():
            if len(set(values)) < len(values):
                yield f"{key}: names {next(value for value in values if values.count(value) > 1)} twice"
        for crop in self.crops:
            if crop is not None and not 0 < crop <= 1:
                yield f"crops: must be over 0 and at most 1, or null, not {crop}"
        if self.probe is not None and self.probe.split == self.evaluation.split:
            yield f"probe.split: is {self.probe.split}, which is evaluated; an image would be its own nearest neighbour"
        if self.probe is not None and self.corruptions:
            yield "probe: has no meaning with corruptions, whose sets have no split to learn from"
        if self.corruption_names and not self.corruptions:
            yield "corruption_names: has no effect without corruptions=true"
        for name in self.corruption_names:
            if name not in (*COUNTED, *EXTRA):
                yield f"corruption_names: {name} is none of {', '.join((*COUNTED, *EXTRA))}"
        if self.calibration_bins < 1:
            yield f"calibration_bins: must be at least 1, not {self.calibration_bins}"
        if self.num_confusions < 0:
            yield f"num_confusions: must be 0 or more, not {self.num_confusions}"

    @property
    def kinds(self) -> tuple[Weights, ...]:
        """The kinds of weights that are evaluated."""
        return ("raw", "ema") if self.weights == "both" else (self.weights,)

"""The config of a finetuning run, and of what is made of the weights of finished ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hornet.config import Settings
from hornet.data.config import EvaluationConfig
from hornet.field_types import NameOrPath
from hornet.stages.config import StageConfig
from hornet.training.config import Weights


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """Where the weights come from."""

    from_: Path
    """A run directory, a checkpoint folder in one, or a weight file (.pth, .safetensors) or a folder of one."""
    weights: Literal["raw", "ema"] = "raw"
    """Which weights of a checkpoint or file to take: the last step's, or their moving average."""
    label_space: NameOrPath | None = None
    """For a weight file, what its head means: a known name (`launch/shards.py labels` lists them, HorNet's released
    weights are hornet-22k), an `_info.json`, or a list of class names, one a line; null if unknown, which of a HorNet
    with a known number of rows is guessed."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(StageConfig):
    """One finetuning run."""

    start: StartConfig
    """Where the weights come from."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """bf16: forward and backward under autocast; parameters and optimizer are fp32 in both."""


Method = Literal["newest", "best", "soup", "interpolate"]


@dataclass(frozen=True, kw_only=True)
class AverageConfig(Settings):
    """Which weights are made of which, and on what they are judged."""

    method: Method
    """newest, best: the mean of so many checkpoints of one run; soup: a greedy soup of several runs; interpolate: the
    points between the start of a finetuning run and its end."""
    sources: tuple[Path, ...]
    """Run directories; of a soup checkpoint folders too."""
    count: int = 3
    """newest, best: how many checkpoints."""
    alphas: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    """interpolate: shares of the end; 0 is the start, 1 the end."""
    start_from: Path | None = None
    """interpolate: where the run's start lies now; null where its config.yaml says."""
    weights: Weights = "raw"
    """Which weights of each checkpoint: the last step's, or their moving average."""
    evaluation: EvaluationConfig
    """The labelled set, by default the run's own (the first one's), and how its images are brought to the network."""
    precision: Literal["bf16", "fp32"] = "fp32"
    """bf16: judge under autocast; by default as the run does."""
    output: Path | None = None
    """Folder to make; null: RUN/averages/METHOD of the first source's run."""

    def _find_problems(self) -> Iterator[str]:
        if self.count < 1:
            yield f"count: must be at least 1, not {self.count}"
        if self.method == "soup" and len(self.sources) < 2:
            yield "sources: a soup needs at least two runs or checkpoints"
        if self.method != "soup" and len(self.sources) != 1:
            yield f"sources: {self.method} takes one run, not {len(self.sources)}"
        if not self.alphas or any(not 0 <= alpha <= 1 for alpha in self.alphas):
            yield f"alphas: must be numbers from 0 to 1, at least one, not {list(self.alphas)}"
        if len(set(self.sources)) < len(self.sources):
            yield "sources: name one twice"

"""The paper's tables, gated: sizes and costs computed here beside what was published, accuracies where a run is.

paper_results.json holds the published rows, each with its source. An accuracy is `not run` until a whole run of the
row's config stands in its run directory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hornet.config import load_config
from hornet.errors import UserError
from hornet.planning.samples import KNOWN_SIZES
from hornet.stages.config import StageConfig
from scaling.state import read_json

ROWS = Path(__file__).with_name("paper_results.json")
PLANNED_GPU = "h100-80"
STUDIES = "runs/scaling/"
FindConfig = Callable[[Path], Path]

TOLERANCE, TOLERANCE_WITH_DEPARTURES = 0.2, 0.4
"""Points of top-1 on 50,000 images, whose own standard error is 0.17."""

State = Literal[
    "not run",
    "no config",
    "running",
    "reproduced",
    "near, with departures",
    "differs",
    "agrees with a second-hand number",
]


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """A row as others have published it."""

    id: str
    model: str
    """A name of timm's."""
    data: str
    image_size: int
    num_classes: int
    """Of the head that the published size counts."""
    parameters_m: float
    gflops: float
    """Multiply-adds, 1e9."""
    top1: float
    """Percent."""
    source: str
    status: Literal["verified", "second-hand"]
    """verified: read in the source; second-hand: a third party quotes it."""
    config: str | None
    """The config that makes it; None where nobody has written one."""
    run: str | None
    """Where its run would stand."""
    after: str | None = None
    """The config of the pretraining that it starts from."""
    top1_of_released_weights: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """A published row, and what stands beside it here."""

    published: PublishedRow
    parameters_m: float
    gflops: float
    state: State
    top1: float | None
    """Ours, percent: the better of the last step's raw and averaged weights."""
    gpu_hours: float | None
    """Planned, of the run that the config asks for."""
    gpu_hours_before: float | None
    """Planned, of the pretraining that it starts from."""
    command: str
    remark: str


def read_rows(path: Path = ROWS) -> list[PublishedRow]:
    """Return the published rows."""
    return [PublishedRow(**row) for row in json.loads(path.read_text())["rows"]]


def make_row(row: PublishedRow, *, root: Path = Path(), find_config: FindConfig = Path) -> PaperRow:
    """Compute a row's size and cost, and look for its run below `root`."""
    parameters, executed, published = count(row)
    config = None if row.config is None else read_config(find_config(Path(row.config)))
    state, top1, remark = ("no config", None, "") if config is None else _judge(row, config, root)
    before = None if row.after is None else read_config(find_config(Path(row.after)))
    return PaperRow(
        published=row,
        parameters_m=parameters / 1e6,
        gflops=published / 1e9,
        state=state,
        top1=top1,
        gpu_hours=None if config is None else plan_hours(config, multiply_adds=executed),
        gpu_hours_before=None if before is None else plan_hours(before, multiply_adds=count_executed(before)),
        command=name_command(row),
        remark=remark,
    )


def name_command(row: PublishedRow) -> str:
    """Return what makes the row's run; empty where no config does."""
    if row.config is None:
        return ""
    study = (row.run or "").removeprefix(STUDIES)
    if study != row.run:
        return f"python launch/scaling.py run --config configs/scaling/{study.split('/')[0]}.yaml --slurm"
    launcher = "deepspeed launch/pretrain.py" if row.after is None else "accelerate launch launch/finetune.py"
    return f"{launcher} --config {row.config}"


def count(row: PublishedRow) -> tuple[int, int, int]:
    """Return parameters, and multiply-adds of one image as they run and in the convention of the published number."""
    from hornet.model.config import ModelConfig
    from hornet.model.cost import count_forward, count_hornet, count_parameters
    from hornet.model.hornet import HorNet
    from hornet.planning.activations import build_on_meta

    model = build_on_meta(ModelConfig(name=row.model), num_classes=row.num_classes, image_size=row.image_size)
    if isinstance(model, HorNet):
        cost = count_hornet(model, row.image_size)
        return count_parameters(model), cost.executed, cost.published
    multiply_adds, _ = count_forward(model, row.image_size)
    return count_parameters(model), multiply_adds, multiply_adds


def read_config(path: Path) -> StageConfig:
    """Read the config of a pretraining or a finetuning."""
    from finetune.config import FinetuneConfig
    from pretrain.config import PretrainConfig

    return load_config(FinetuneConfig if "finetune" in path.parts else PretrainConfig, path=path)


def count_executed(config: StageConfig) -> int:
    """Return multiply-adds of one image of a config, as they run; of a head of the 1,000 classes, which is 0.1 %."""
    size = config.data.transform.image_size
    row = {"id": "", "model": config.model.name, "data": "", "source": "", "status": "verified"}
    numbers = {"image_size": size, "num_classes": 1000, "parameters_m": 0.0, "gflops": 0.0, "top1": 0.0}
    return count(PublishedRow(**row, **numbers, config=None, run=None))[1]


def plan_hours(config: StageConfig, *, multiply_adds: int) -> float:
    """Return the hours of one GPU that a run takes at the share of its rate that launch/plan.py assumes."""
    from hornet.hardware import get_gpu
    from hornet.planning.speed import ASSUMED_MFU

    peak = get_gpu(PLANNED_GPU).peak_tflops
    assert peak is not None
    images = config.schedule.num_epochs * KNOWN_SIZES[Path(str(config.data.shards)).name]
    return images * 6 * multiply_adds / (ASSUMED_MFU["bf16"] * peak * 1e12) / 3600


def _judge(row: PublishedRow, config: StageConfig, root: Path) -> tuple[State, float | None, str]:
    folder = root / (row.run or "")
    summary = read_json(folder / "summary.json")
    if not summary:
        return ("running", None, "") if (folder / "checkpoints" / "latest").exists() else ("not run", None, "")
    problem = _find_mismatch(config, summary)
    if problem is not None:
        return "not run", None, f"{folder}: {problem}"
    top1 = (summary.get("best_evaluation") or {}).get("top1")
    if top1 is None:
        return "not run", None, f"{folder}: was not evaluated"
    return judge(float(top1), row, departures=_list_departures(folder))


def judge(top1: float, row: PublishedRow, *, departures: Sequence[str] | None) -> tuple[State, float, str]:
    """Return the state of a finished run; `departures` from the recipe are its keys, None if nobody has looked."""
    away = top1 - row.top1
    says = f"{away:+.2f} points"
    if row.status == "second-hand":
        is_near = abs(away) <= TOLERANCE_WITH_DEPARTURES
        return ("agrees with a second-hand number" if is_near else "differs"), top1, says
    if departures is not None and not departures:
        return ("reproduced" if abs(away) <= TOLERANCE else "differs"), top1, says
    why = "its recipe was not audited" if departures is None else f"departs in {', '.join(departures)}"
    is_near = abs(away) <= TOLERANCE_WITH_DEPARTURES
    return ("near, with departures" if is_near else "differs"), top1, f"{says}; {why}"


def _find_mismatch(config: StageConfig, summary: dict[str, Any]) -> str | None:
    """Return why a finished run is not of the row's config, as far as that can be known here."""
    from hornet.stages.run_digest import digest_run

    try:
        expected = digest_run(config, parent=summary.get("parent"))
    except UserError as error:
        return f"what it has learned cannot be checked ({error})"
    return None if summary.get("digest") == expected else "is the run of another config or set"


def _list_departures(folder: Path) -> list[str] | None:
    audit = read_json(folder / "recipe.json")
    return [each["key"] for each in audit["departures"]] if "departures" in audit else None


def format_rows(rows: Sequence[PaperRow]) -> str:
    """Return the table in Markdown."""
    head = (
        "row", "M parameters: here / published", "G multiply-adds: here / published", "top-1, %: here / published",
        "state", "GPU-hours",
    )  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        theirs = row.published
        ours = "" if row.top1 is None else f"{row.top1:.2f}"
        mark = " (second-hand)" if theirs.status == "second-hand" else ""
        cells = (
            theirs.id,
            f"{row.parameters_m:.3f} / {theirs.parameters_m:g}",
            f"{row.gflops:.3f} / {theirs.gflops:g}",
            f"{ours or '-'} / {theirs.top1:g}{mark}",
            row.state + (f": {row.remark}" if row.remark else ""),
            _say_hours(row),
        )
        lines.append(f"| {' | '.join(cells)} |")
    commands = list(dict.fromkeys(row.command for row in rows if row.command and row.state in ("not run", "running")))
    ahead = [row for row in rows if row.state == "not run"]
    before = {row.published.after: row.gpu_hours_before or 0.0 for row in ahead}
    hours = sum(row.gpu_hours or 0.0 for row in ahead) + sum(before.values())
    lines += [
        "",
        f"GPU-hours: planned, of one {PLANNED_GPU} at the utilisation that launch/plan.py assumes; + the pretraining "
        f"that a finetuning starts from. All that is not run: {hours:.0f}.",
        *(["", "To run it:", "", *(f"    {command}" for command in commands)] if commands else []),
    ]
    return "\n".join(lines)


def _say_hours(row: PaperRow) -> str:
    before = "" if row.gpu_hours_before is None else f" + {row.gpu_hours_before:.0f}"
    return "" if row.gpu_hours is None else f"{row.gpu_hours:.0f}{before}"

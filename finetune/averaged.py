"""What an average tells: what was judged, how it did, what was written; as JSON values and as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetune.config import AverageConfig


@dataclass(frozen=True, kw_only=True)
class Row:
    """Some weights and how they did."""

    name: str
    """What they are: a checkpoint, a mean, a share of the end."""
    num_hits: int
    """Images whose label has the highest logit."""
    num_images: int
    """Images counted."""
    top5: float
    """Percent."""
    loss: float
    """Mean cross entropy."""
    is_chosen: bool = False
    """Whether these are written, or, of a soup's or a mean's ingredients, are in it."""

    @property
    def top1(self) -> float:
        """Percent."""
        return 100 * self.num_hits / max(1, self.num_images)


@dataclass(frozen=True, kw_only=True)
class Averaged:
    """The weights that were written, beside all that were tried."""

    folder: Path
    """Where it lies, as a run with one checkpoint."""
    rows: tuple[Row, ...]
    """What was judged, in that order."""
    chosen: str
    """The name of the row that was written."""


def describe(config: AverageConfig, averaged: Averaged) -> dict[str, Any]:
    """Return what was made and how it did, as JSON values; percentages follow from the counts."""
    data = config.evaluation
    return {
        "method": config.method,
        "sources": [str(path) for path in config.sources],
        "weights": config.weights,
        "set": str(data.shards),
        "split": data.split,
        "image_size": data.image_size,
        "crop_fraction": data.crop_fraction,
        "precision": config.precision,
        "rows": [{**asdict(row), "top1": row.top1} for row in averaged.rows],
        "chosen": averaged.chosen,
        "folder": str(averaged.folder),
    }


def format_table(averaged: Averaged) -> list[str]:
    """Return a row of Markdown for each of what was judged, below a head."""
    lines = ["| weights | top-1 % | of images | top-5 % | loss | |", "|---|---|---|---|---|---|"]
    for row in averaged.rows:
        remark = "written" if row.name == averaged.chosen else "in it" if row.is_chosen else ""
        lines.append(
            f"| {row.name} | {row.top1:.3f} | {row.num_hits} of {row.num_images} | {row.top5:.3f} | {row.loss:.4f} | "
            f"{remark} |"
        )
    return lines

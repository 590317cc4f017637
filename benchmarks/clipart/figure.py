"""The experiments' figure: what each seed's pair gave, and how filters fare at other sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.clipart.report import NAMES, Results, Scores
from benchmarks.clipart.runs import BACKBONES, PYRAMIDS, RESIZES


def render_figure(results: Results, path: Path) -> None:
    """Write a figure of what there is; needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(12, 3.6), constrained_layout=True)
    arms = {
        "scratch": "from scratch",
        "finetune-bilinear": "finetuned,\nbilinear",
        "finetune-spectral": "finetuned,\nspectral",
    }
    _plot_pairs(left, {name: results.scores(arm, "top1") for arm, name in arms.items()})
    left.set(title="Coarse classes, equal FLOPs", ylabel="top-1, %")
    for resize, marker in zip(RESIZES, "os", strict=True):
        for size, scores in sorted(results.before.get(resize, {}).items()):
            middle.plot(
                [size] * len(scores), list(scores.values()), marker, fillstyle="none", color="grey", markersize=4
            )
        means = {
            size: sum(scores.values()) / len(scores) for size, scores in sorted(results.before.get(resize, {}).items())
        }
        middle.plot(list(means), list(means.values()), marker=marker, label=resize)
    middle.set(title="Pretrained at 64 pixels, looked at larger", xlabel="pixels", ylabel="top-1 on fine classes, %")
    middle.legend(fontsize="small")
    columns = {
        f"{NAMES[pyramid]},\n{NAMES[backbone]}": results.scores(f"dense-{backbone}-{pyramid}", "miou")
        for pyramid in PYRAMIDS
        for backbone in reversed(BACKBONES)
    }
    _plot_pairs(right, columns)
    right.set(title="Segmentation of scenes", ylabel="mIoU, %")
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize="small")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _plot_pairs(axes: Any, columns: dict[str, Scores]) -> None:
    """Plot a column an arm and a line a seed."""
    seeds = sorted({seed for scores in columns.values() for seed in scores})
    for seed in seeds:
        points = [(place, scores[seed]) for place, scores in enumerate(columns.values()) if seed in scores]
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=f"seed {seed}")
    axes.set_xticks(range(len(columns)), list(columns))
    axes.set_xlim(-0.4, len(columns) - 0.6)
    if seeds:
        axes.legend(fontsize="small")

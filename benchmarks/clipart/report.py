"""What the runs gave: results.json with every number, tables.md with the tables; both say what is missing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.clipart.pairing import Interval, blend, compare
from benchmarks.clipart.runs import BACKBONES, EVALUATED_SIZES, PYRAMIDS, RESIZES, Compute, Plan
from hornet.durable import write_json, write_text

Scores = dict[int, float]
"""Seed -> percent."""

CLASSIFIERS = {
    "pretrain": "pretrained on fine classes, 64 pixels",
    "scratch": "from scratch, 96 pixels",
    "finetune-bilinear": "pretrained, finetuned at 96 pixels, filters resized bilinearly",
    "finetune-spectral": "pretrained, finetuned at 96 pixels, filters resized by frequencies",
}
NAMES = {"pretrained": "pretrained", "random": "random start", "fpn": "FPN", "horfpn_gf": "HorFPN GF"}


@dataclass(kw_only=True)
class Results:
    """All that has been found so far."""

    plan: Plan
    compute: Compute
    summaries: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    """Arm -> seed -> the run's summary."""
    per_image: dict[str, dict[int, npt.NDArray[np.bool_]]] = field(default_factory=dict)
    """Arm -> seed -> whether each validation image was right, in one order."""
    before: dict[str, dict[int, dict[int, float]]] = field(default_factory=dict)
    """Resize -> pixels -> seed -> top-1 of the pretrained network on fine classes."""
    losses_before: dict[str, dict[int, dict[int, float]]] = field(default_factory=dict)
    """The same of its loss."""
    missing: list[str] = field(default_factory=list)
    """Runs that have not finished."""

    def scores(self, arm: str, measure: str) -> Scores:
        """Return a measure of the last evaluation of each seed's run."""
        return {seed: float(last(summary)[measure]) for seed, summary in sorted(self.summaries.get(arm, {}).items())}


def last(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's evaluation after its last step."""
    found: dict[str, Any] = summary["evaluations"][-1]
    return found


def read_results(plan: Plan, compute: Compute, runs: Path) -> Results:
    """Read what has finished; nothing else counts."""
    results = Results(plan=plan, compute=compute)
    arms = [*CLASSIFIERS, *(f"dense-{backbone}-{pyramid}" for pyramid in PYRAMIDS for backbone in BACKBONES)]
    for arm in arms:
        for seed in plan.seeds:
            path = runs / f"{arm}-{seed}" / "summary.json"
            if not path.exists():
                results.missing.append(f"{arm}-{seed}")
                continue
            results.summaries.setdefault(arm, {})[seed] = json.loads(path.read_text())
            for file in sorted(path.parent.glob("per_image/step_*_raw.npz"))[-1:]:
                with np.load(file, allow_pickle=False) as found:
                    results.per_image.setdefault(arm, {})[seed] = found["hit"]
    for resize in RESIZES:
        for seed in plan.seeds:
            path = runs / f"evaluate-{resize}-{seed}" / "evaluation.json"
            if not path.exists():
                results.missing.append(f"evaluate-{resize}-{seed}")
                continue
            for row in json.loads(path.read_text())["results"]:
                for name, found in (("top1", results.before), ("loss", results.losses_before)):
                    sizes = found.setdefault(resize, {})
                    sizes.setdefault(int(row["image_size"]), {})[seed] = float(row[name])
    return results


def find_image_error(
    ours: Mapping[int, npt.NDArray[np.bool_]], others: Mapping[int, npt.NDArray[np.bool_]]
) -> float | None:
    """Return the standard error, in points, that a difference has since other images might have been held out.

    Of each image the hits of all seeds that both have are averaged and subtracted; images are independent draws.
    """
    seeds = sorted(ours.keys() & others.keys())
    if not seeds:
        return None
    difference = np.mean([ours[seed].astype(float) - others[seed] for seed in seeds], axis=0)
    return float(100 * difference.std(ddof=1) / np.sqrt(len(difference)))


def compare_classifiers(results: Results) -> list[tuple[str, Interval | None, float | None]]:
    """Return the differences in top-1 between arms: name, interval over seeds, standard error over images."""
    pairs = [("finetune-bilinear", "scratch"), ("finetune-spectral", "scratch")]
    pairs.append(("finetune-spectral", "finetune-bilinear"))
    return [
        (
            f"{ours} - {others}",
            compare(results.scores(ours, "top1"), results.scores(others, "top1")),
            find_image_error(results.per_image.get(ours, {}), results.per_image.get(others, {})),
        )
        for ours, others in pairs
    ]


def compare_segmenters(results: Results) -> list[tuple[str, Interval | None]]:
    """Return the differences in mIoU: of each factor at each level of the other, and over both levels."""
    scores = {
        (backbone, pyramid): results.scores(f"dense-{backbone}-{pyramid}", "miou")
        for backbone in BACKBONES
        for pyramid in PYRAMIDS
    }
    rows = []
    for pyramid in PYRAMIDS:
        found = compare(scores["pretrained", pyramid], scores["random", pyramid])
        rows.append((f"pretrained - random start, under {NAMES[pyramid]}", found))
    sides = [blend(scores[backbone, "fpn"], scores[backbone, "horfpn_gf"]) for backbone in BACKBONES]
    rows.append(("pretrained - random start, mean of both pyramids", compare(*sides)))
    for backbone in BACKBONES:
        found = compare(scores[backbone, "horfpn_gf"], scores[backbone, "fpn"])
        rows.append((f"HorFPN GF - FPN, {NAMES[backbone]}", found))
    sides = [blend(scores["pretrained", pyramid], scores["random", pyramid]) for pyramid in ("horfpn_gf", "fpn")]
    rows.append(("HorFPN GF - FPN, mean of both backbones", compare(*sides)))
    return rows


def write_report(results: Results, output: Path, *, sets: Mapping[str, Any]) -> None:
    """Write results.json and tables.md."""
    output.mkdir(parents=True, exist_ok=True)
    content = {
        "plan": asdict(results.plan),
        "compute": {**asdict(results.compute), "runs": results.compute.count(results.plan)},
        "sets": dict(sets),
        "summaries": {arm: {str(seed): row for seed, row in rows.items()} for arm, rows in results.summaries.items()},
        "before_finetuning": {"top1": results.before, "loss": results.losses_before},
        "differences_top1": [
            {"what": what, "interval": interval and asdict(interval), "standard_error_over_images": error}
            for what, interval, error in compare_classifiers(results)
        ],
        "differences_miou": [
            {"what": what, "interval": interval and asdict(interval)} for what, interval in compare_segmenters(results)
        ],
        "missing": results.missing,
    }
    write_json(output / "results.json", content)
    write_text(output / "tables.md", format_tables(results))


def format_tables(results: Results) -> str:
    """Return all tables as Markdown."""
    parts = []
    if results.missing:
        parts.append(f"Not finished, and in no table: {', '.join(results.missing)}.")
    parts += ["## Compute", _format_compute(results), "## Pretrained or from scratch", _format_classifiers(results)]
    parts += ["## Filters at another size, before finetuning", _format_before(results)]
    parts += ["## Segmentation", _format_segmenters(results)]
    return "\n\n".join(parts) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def _format_compute(results: Results) -> str:
    plan, compute = results.plan, results.compute
    flops = compute.count(plan)
    steps = {"pretrain": plan.pretrain_steps, "finetune": plan.finetune_steps, "scratch": compute.scratch_steps}
    rows = [[stage, str(steps[stage]), str(steps[stage] * plan.batch_size), f"{flops[stage]:.5e}"] for stage in steps]
    both = flops["pretrain"] + flops["finetune"]
    share = f"{100 * flops['scratch'] / both:.3f} %"
    rows.append(["pretrain + finetune", "", "", f"{both:.5e} (scratch: {share} of it)"])
    return _table(["stage", "steps", "images seen", "training FLOPs"], rows)


def _format_classifiers(results: Results) -> str:
    rows = []
    for arm, name in CLASSIFIERS.items():
        for seed, summary in sorted(results.summaries.get(arm, {}).items()):
            found = last(summary)
            right = round(found["top1"] * found["num_images"] / 100)
            top1 = f"{found['top1']:.2f}"
            counts = f"{right} of {found['num_images']}"
            rows.append([name, str(seed), top1, counts, f"{found['loss']:.4f}", f"{summary['seconds']:.0f}"])
    first = _table(["run", "seed", "top-1 %", "right", "loss", "seconds"], rows)
    rows = [
        [what, _show(interval), str(interval.num_values if interval else 0), "-" if error is None else f"{error:.2f}"]
        for what, interval, error in compare_classifiers(results)
    ]
    header = ["difference in top-1, points", "mean (95 % over seeds)", "pairs", "standard error over images"]
    return f"{first}\n\n{_table(header, rows)}"


def _format_before(results: Results) -> str:
    rows = []
    for size in EVALUATED_SIZES:
        both = [results.before.get(resize, {}).get(size, {}) for resize in RESIZES]
        means = [
            f"{np.mean(list(scores.values())):.2f} ({np.mean(list(results.losses_before[resize][size].values())):.4f})"
            if scores
            else "-"
            for resize, scores in zip(RESIZES, both, strict=True)
        ]
        rows.append([str(size), *means, _show(compare(both[1], both[0]))])
    header = ["pixels", *(f"{resize}: mean top-1 % (loss)" for resize in RESIZES)]
    header.append("spectral - bilinear, points (95 % over seeds)")
    return _table(header, rows)


def _format_segmenters(results: Results) -> str:
    rows = []
    for pyramid in PYRAMIDS:
        for backbone in BACKBONES:
            for seed, summary in sorted(results.summaries.get(f"dense-{backbone}-{pyramid}", {}).items()):
                found = last(summary)
                flops = summary["training_flops"] / summary["images_seen"] / 1e9
                measures = [f"{found[name]:.2f}" for name in ("miou", "macc", "aacc")]
                cost = [f"{summary['num_parameters'] / 1e6:.3f}", f"{flops:.3f}", f"{summary['seconds']:.0f}"]
                rows.append([NAMES[backbone], NAMES[pyramid], str(seed), *measures, *cost])
    header = ["backbone", "pyramid", "seed", "mIoU %", "mAcc %", "aAcc %"]
    header += ["parameters, M", "training GFLOPs an image", "seconds"]
    differences = [
        [what, _show(interval), str(interval.num_values if interval else 0)]
        for what, interval in compare_segmenters(results)
    ]
    second = _table(["difference in mIoU, points", "mean (95 % over seeds)", "pairs"], differences)
    return f"{_table(header, rows)}\n\n{second}"


def _show(interval: Interval | None) -> str:
    return "-" if interval is None else str(interval)

"""What an evaluation leaves behind: evaluation.json with everything, a page of Markdown, a figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hornet.data.corruptions.names import SEVERITIES
from hornet.durable import replace_non_finite, write_bytes
from hornet.errors import UserError
from hornet.pages.evaluation import Reliability, Sweep, render_figure
from hornet.shards.label_report import find_meaning
from hornet.stages.board import show_in_tensorboard
from hornet.stages.config import EvaluateConfig
from hornet.stages.corruptions import CorruptionResult
from hornet.stages.evaluation import Evaluated, Row
from hornet.stages.judging import describe_missing
from hornet.stages.preprocessing import list_used
from hornet.stages.probing import Probe
from hornet.stages.result_place import FILE, QUESTION, Place, describe_question
from hornet.training.evaluate import has_finite_loss
from hornet.training.measures import Measurement

NUM_WORST = 20
"""Classes that the page lists, of those that are found least often."""


def write_results(config: EvaluateConfig, evaluated: Evaluated, place: Place) -> None:
    """Write evaluation.json, .md and .svg, each whole or not at all; raises UserError if they cannot be written."""
    described = describe(config, evaluated, with_classes=True)
    files = {
        FILE: json.dumps(replace_non_finite(described), allow_nan=False, indent=1),
        "evaluation.md": format_page(config, evaluated),
        "evaluation.svg": render_figure(_list_reliabilities(evaluated), _list_sweeps(evaluated)),
    }
    folder = place.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            write_bytes(folder / name, text.encode("utf-8", "replace"))
        if place.board is not None:
            show_in_tensorboard(evaluated, place.board)
    except OSError as error:
        raise UserError(f"output: {folder} cannot be written ({error.strerror}); name another folder") from error


def describe(config: EvaluateConfig, evaluated: Evaluated, *, with_classes: bool) -> dict[str, Any]:
    """Return an evaluation as JSON values; `with_classes` adds each class's counts and the bins of the calibration."""
    space = evaluated.judged
    used = list_used(config)
    return {
        "source": str(config.source),
        "weights": dict(evaluated.sources),
        "step": evaluated.step,
        "model": evaluated.model,
        "set": str(config.evaluation.shards),
        "split": config.evaluation.split,
        QUESTION: describe_question(config, evaluated),
        "precision": used["precision"],
        "interpolation": used["interpolation"],
        "label_space": {"name": space.name, "num_classes": len(space), "fingerprint": space.fingerprint},
        "missing_classes": list(evaluated.missing),
        "results": [_describe_row(row, space.classes, with_classes=with_classes) for row in evaluated.rows],
        "corruptions": [{**_describe_view(row), **asdict(result)} for row, result in evaluated.find_corruptions()],
        "departures": list(evaluated.departures),
        "probes": [_describe_probe(probe) for probe in evaluated.probes],
    }


def _describe_probe(probe: Probe) -> dict[str, Any]:
    results = [
        {"kind": kind, parameter: value, "top1": share.top1, **asdict(share)}
        for kind, parameter, shares in (("neighbours", "k", probe.neighbours), ("linear", "l2", probe.linear))
        for value, share in shares.items()
    ]
    return {"weights": probe.weights, "num_features": probe.num_features, "results": results}


def _describe_view(row: Row) -> dict[str, Any]:
    return {"weights": row.weights, "image_size": row.image_size, "crop_fraction": row.crop_fraction}


def _describe_row(row: Row, names: Sequence[str], *, with_classes: bool) -> dict[str, Any]:
    measured = row.measurement
    described: dict[str, Any] = {
        **_describe_view(row),
        "corruption": row.corruption,
        **asdict(measured.evaluation),
        "calibration_error": measured.calibration.error,
        "mean_class_top1": compute_mean_class_top1(measured),
        "real": None if measured.multi_label is None else asdict(measured.multi_label),
    }
    if with_classes:
        described["calibration"] = asdict(measured.calibration)
        described["confusions"] = [
            {"label": names[pair.label], "predicted": names[pair.predicted], "count": pair.count}
            for pair in measured.confusions
        ]
        described["classes"] = [{**asdict(row), "name": names[row.label]} for row in measured.classes]
    return described


def compute_mean_class_top1(measured: Measurement) -> float:
    """Return top-1 in percent as the mean over the classes that have images, each of the same weight."""
    shares = [row.top1 / row.num_images for row in measured.classes if row.num_images]
    return 100 * sum(shares) / max(1, len(shares))


def format_table(evaluated: Evaluated) -> list[str]:
    """Return a row of Markdown for each evaluation, below a head."""
    has_real = any(row.measurement.multi_label for row in evaluated.rows)
    is_corrupted = any(row.corruption for row in evaluated.rows)
    head = [
        "weights",
        *(["corruption"] if is_corrupted else []),
        "pixels",
        "crop",
        "top-1 %",
        "top-5 %",
        "loss",
        "ECE %",
    ]
    head += ["mean of classes %", *(["ReaL top-1 %", "ReaL images"] if has_real else []), "images"]
    lines = [_line(head), "|" + "---|" * len(head)]
    for row in evaluated.rows:
        measured = row.measurement
        found = measured.evaluation
        cells = [row.weights, *([row.corruption or "none"] if is_corrupted else []), str(row.image_size)]
        cells += ["warped" if row.crop_fraction is None else f"{row.crop_fraction:g}"]
        cells += [f"{found.top1:.3f}", f"{found.top5:.3f}"]
        cells += [f"{found.loss:.4f}" if has_finite_loss(asdict(found)) else "not finite"]
        cells += [f"{100 * measured.calibration.error:.2f}", f"{compute_mean_class_top1(measured):.3f}"]
        if has_real:
            real = measured.multi_label
            cells += ["", ""] if real is None else [f"{real.top1:.3f}", str(real.num_images)]
        lines.append(_line([*cells, str(found.num_images)]))
    return lines


def format_corruptions(evaluated: Evaluated) -> list[str]:
    """Return for each weights, size and crop the means and the errors by corruption, then how ours depart."""
    lines = []
    for row, result in evaluated.find_corruptions():
        crop = "warped" if row.crop_fraction is None else f"crop {row.crop_fraction:g}"
        lines += [f"{row.weights} weights, {row.image_size} pixels, {crop}: {_tell_mean(result)}", ""]
        head = ["corruption", *map(str, SEVERITIES), "mean error %"]
        head += ["over AlexNet's %"] if result.normalised else []
        lines += [_line(head), "|" + "---|" * len(head)]
        for name, errors in result.errors.items():
            normalised = result.normalised.get(name)
            shown = [f"{100 * error:.2f}" for error in (*errors, sum(errors) / len(errors))]
            over = ["" if normalised is None else f"{normalised:.2f}"] if result.normalised else []
            lines.append(_line([name, *shown, *over]))
        lines.append("")
    if evaluated.departures:
        lines += ["The corruptions were made here. How they differ from ImageNet-C's:", ""]
        lines += [*(f"- {departure}" for departure in evaluated.departures), ""]
    return lines


def _tell_mean(result: CorruptionResult) -> str:
    """Say the mean corruption error; the mean error, and why there is no mCE, where there is none."""
    if result.mce is not None:
        return f"mCE {result.mce:.2f}, mean error {result.mean_error:.2f} %"
    mean = "" if result.mean_error is None else f"mean error {result.mean_error:.2f} %; "
    return f"{mean}no mCE: {result.reason}"


def format_probes(evaluated: Evaluated) -> list[str]:
    """Return a row of Markdown for each judgement of frozen features, below a head; nothing without any."""
    if not evaluated.probes:
        return []
    lines = [_line(["weights", "features", "judged by", "top-1 %", "images"]), "|" + "---|" * 5]
    for probe in evaluated.probes:
        by = [(f"{count} nearest neighbours", share) for count, share in probe.neighbours.items()]
        by += [(f"linear classifier, l2 {l2:g}", share) for l2, share in probe.linear.items()]
        start = [probe.weights, str(probe.num_features)]
        lines += [_line([*start, name, f"{share.top1:.3f}", str(share.num_images)]) for name, share in by]
    return [*lines, ""]


def format_page(config: EvaluateConfig, evaluated: Evaluated) -> str:
    """Return evaluation.md: how it was done, the table, the worst classes and the most confused pairs."""
    space, data = evaluated.judged, config.evaluation
    lines = [
        f"# {evaluated.model} on {evaluated.set_name}, split {data.split}",
        "",
        *(f"- {kind} weights: {source}" for kind, source in evaluated.sources.items()),
        f"- judged: {len(space)} classes of {space.name}; computed in {config.precision}, {data.interpolation}",
        *([f"- {describe_missing(evaluated.missing)}"] if evaluated.missing else []),
        "",
        *format_table(evaluated),
        "",
        *format_corruptions(evaluated),
        *format_probes(evaluated),
    ]
    for row in evaluated.rows:
        lines += [] if row.corruption else _format_classes(row, space.classes)
    return "\n".join(lines).rstrip() + "\n"


def _format_classes(row: Row, names: Sequence[str]) -> list[str]:
    measured = row.measurement
    present = [count for count in measured.classes if count.num_images]
    worst = sorted(present, key=lambda count: (count.top1 / count.num_images, count.label))[:NUM_WORST]
    lines = [
        f"## {row.weights} weights, {row.image_size} pixels",
        "",
        f"Least often found of {len(present)} classes:",
        "",
    ]
    lines += [_line(["class", "top-1", "top-5", "images"]), "|---|---|---|---|"]
    lines += [_line([_name(names[c.label]), str(c.top1), str(c.top5), str(c.num_images)]) for c in worst]
    if measured.confusions:
        lines += ["", "Most often confused:", "", _line(["class", "taken for", "images"]), "|---|---|---|"]
        lines += [_line([_name(names[p.label]), _name(names[p.predicted]), str(p.count)]) for p in measured.confusions]
    return [*lines, ""]


def _name(name: str) -> str:
    """Return a class's name with the words of a synset, in what Markdown takes for text."""
    meaning = find_meaning(name)
    return f"{name} {meaning}" if meaning else name


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"


def _list_reliabilities(evaluated: Evaluated) -> list[Reliability]:
    first = evaluated.rows[0]
    return [
        Reliability(
            name=f"{row.weights} weights, {row.image_size} pixels",
            counts=row.measurement.calibration.counts,
            hits=row.measurement.calibration.hits,
            confidences=row.measurement.calibration.confidences,
        )
        for row in evaluated.rows
        if (row.image_size, row.crop_fraction, row.corruption)
        == (first.image_size, first.crop_fraction, first.corruption)
    ]


def _list_sweeps(evaluated: Evaluated) -> list[Sweep]:
    """Return top-1 over the sizes, or over the severities, of each kind of weights and crop."""
    found: dict[str, dict[float, list[float]]] = {}
    is_corrupted = any(row.corruption for row in evaluated.rows)
    for row in evaluated.rows:
        crop = "warped" if row.crop_fraction is None else f"crop {row.crop_fraction:g}"
        name = f"{row.weights} weights, {f'{row.image_size} pixels, ' if is_corrupted else ''}{crop}"
        x = float((row.corruption or "/0").rpartition("/")[2]) if is_corrupted else float(row.image_size)
        found.setdefault(name, {}).setdefault(x, []).append(row.measurement.evaluation.top1)
    x_name = "severity" if is_corrupted else "pixels"
    return [
        Sweep(name=name, x_name=x_name, points=tuple((x, sum(values) / len(values)) for x, values in by_x.items()))
        for name, by_x in found.items()
        if len(by_x) > 1
    ]

"""The model card of exported weights: what they are, of which run, what they reached, how they are loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hornet import __version__
from hornet.durable import read_json_lines
from hornet.runs.begun import find_run
from hornet.stages.config import ExportConfig
from hornet.stages.pretrained import Pretrained
from hornet.training.evaluate import format_evaluation


def make_card(
    config: ExportConfig,
    pretrained: Pretrained,
    described: Mapping[str, Any],
    files: Mapping[str, str],
    *,
    module: str | None,
) -> str:
    """Return README.md as the hub shows it, from what the run's own files say; `module` registers the network."""
    cfg, space = described["pretrained_cfg"], pretrained.label_space
    name = described["architecture"]
    labels = "of an unknown label space" if space is None else f"of label space {space.name}"
    crop = "warped whole" if cfg["crop_mode"] == "squash" else f"centre crop of {cfg['crop_pct']:g}"
    lines = [
        "---",
        *([f"license: {config.license}"] if config.license else []),
        "library_name: timm",
        "tags: [image-classification, timm, hornet]",
        "---",
        f"# {name}",
        "",
        f"{cfg['num_classes']} classes {labels}; {cfg['input_size'][-1]} pixels, {crop}, {cfg['interpolation']}, mean "
        f"{_list(cfg['mean'])}, std {_list(cfg['std'])}. {config.weights} weights, exported by hornet {__version__}.",
        "",
        *describe_results(config),
        "## Files",
        "",
        *(f"- `{file}`: {what}" for file, what in files.items()),
        "",
        "```python",
        "import timm, hornet  # hornet registers its own networks",
        *([] if module is None else [f"import {module}  # which registers this one"]),
        "",
        'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()',
        "transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))",
        "```",
        "",
        *_describe_recipe(config),
        "## Source",
        "",
        "HorNet: Efficient High-Order Spatial Interactions with Recursive Gated Convolutions",
        "(Rao et al., NeurIPS 2022, arXiv 2207.14284).",
        "",
    ]
    return "\n".join(lines)


def describe_results(config: ExportConfig) -> list[str]:
    """Return the lines that say what the run's last evaluation of these weights found; none without one."""
    run = find_run(config.source)
    rows = read_json_lines(run / "evaluations.jsonl") if run is not None else []
    rows = [row for row in rows if row["weights"] == config.weights][-1:]
    return [
        line
        for row in rows
        for line in (
            "## Results",
            "",
            f"After {row['step']} steps: {format_evaluation(row)}.",
            "",
        )
    ]


def _describe_recipe(config: ExportConfig) -> list[str]:
    run = find_run(config.source)
    path = None if run is None else run / "recipe.json"
    if path is None or not path.exists():
        return []
    recipe = json.loads(path.read_text())
    departures = [f"- {row['key']}: {row['ours']} instead of {row['published']}" for row in recipe["departures"]]
    told = departures or ["No departure from it."]
    return ["## Recipe", "", f"Compared with the published recipe {recipe['published']}:", "", *told, ""]


def _list(numbers: list[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)

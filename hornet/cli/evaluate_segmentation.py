"""`hornet evaluate` of a run of segmentation: the same set, seen in the same way or another."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dense.config import DenseConfig, EvaluateSegmenterConfig
from hornet.cli.command_line import exit_on_bad_input
from hornet.config import ConfigError, build_config, to_values
from hornet.durable import replace_non_finite
from hornet.overrides import apply_overrides
from hornet.runs.begun import read_run_config
from hornet.world import read_world


def find_segmentation(source: Path) -> Path | None:
    """Return the run of segmentation that `source` is, or is a checkpoint of; None if it is none."""
    for folder in (source, source.parent.parent):
        if (folder / "config.yaml").exists():
            model = read_run_config(folder).get("model")
            return folder if isinstance(model, dict) and "pyramid" in model else None
    return None


def evaluate_segmentation(run: Path, options: argparse.Namespace) -> None:
    """Evaluate what the command line names, and print it; raise ConfigError for settings that are none."""
    trained, config = read_segmentation(run, options.source, config=options.config, overrides=options.overrides)
    exit_on_bad_input(lambda: _report(trained, config, as_json=options.json))


def read_segmentation(
    run: Path, source: Path, *, config: Path | None, overrides: list[str]
) -> tuple[DenseConfig, EvaluateSegmenterConfig]:
    """Return the run's config and what is to be evaluated: as the run does it, but for the overrides."""
    if config is not None:
        raise ConfigError(str(config), ["is for classifiers; of a run of segmentation give key=value"])
    trained = build_config(DenseConfig, read_run_config(run), source=str(run / "config.yaml"))
    values: dict[str, Any] = {"source": source, "precision": trained.precision}
    if trained.evaluation is not None:
        values["evaluation"] = to_values(trained.evaluation)
    problems = apply_overrides(values, overrides)
    return trained, build_config(EvaluateSegmenterConfig, values, source=str(source), problems=problems)


def _report(trained: DenseConfig, config: EvaluateSegmenterConfig, *, as_json: bool) -> None:
    from dense.evaluation import evaluate_segmenter  # torch takes seconds, which bad input need not wait for
    from hornet.training.evaluate import format_evaluation

    world = read_world()
    found = evaluate_segmenter(trained, config, world=world)
    if not world.is_main:
        return
    row = {"weights": config.weights, **asdict(found)}
    if as_json:
        print(json.dumps(replace_non_finite(row), allow_nan=False))
        return
    data = config.evaluation
    seen = f"{data.mode}, factors {list(data.factors)}, {'mirrored too' if data.flip else 'not mirrored'}"
    print(f"{config.source} ({config.weights} weights) on {data.shards}, split {data.split}; {seen}")
    print(f"  {format_evaluation(row)}")

"""`hornet evaluate` of a run of a dense task: the same set, seen in the same way or another."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dense.config import TASKS, DenseConfig, EvaluateInstancesConfig, EvaluateSegmenterConfig, InstancesConfig
from hornet.cli import print_to_pipe
from hornet.cli.checks import EVALUATION
from hornet.config import Check, ConfigError, build_config, choose_class, to_values
from hornet.data.segmentation_config import SegmentationEvaluationConfig
from hornet.durable import replace_non_finite
from hornet.overrides import apply_overrides
from hornet.runs.begun import find_run, read_run_config
from hornet.world import read_world

AnyConfig = DenseConfig | InstancesConfig
AnyEvaluateConfig = EvaluateSegmenterConfig | EvaluateInstancesConfig

EVALUATIONS: Mapping[str, type[AnyEvaluateConfig]] = {
    "semantic": EvaluateSegmenterConfig,
    "instances": EvaluateInstancesConfig,
}


def find_dense_run(source: Path) -> Path | None:
    """Return the run of a dense task that `source` is, or is a checkpoint of; None if it is none."""
    run = find_run(source)
    model = None if run is None else read_run_config(run).get("model")
    return run if isinstance(model, dict) and "pyramid" in model else None


def require_classifier(source: Path) -> None:
    """Raise ConfigError, in one sentence and not key by key, if weights are those of a run of a dense task."""
    run = find_dense_run(source)
    if run is not None:
        raise ConfigError(str(run), ["is a run of launch/dense.py, and this is for classifiers; it can be evaluated"])


def evaluate_dense_run(run: Path, options: argparse.Namespace) -> None:
    """Evaluate what the command line names, and print it; raises UserError, as ConfigError for settings."""
    trained, config = read_dense(
        run, options.source, config=options.config, overrides=options.overrides, checks=EVALUATION
    )
    _report(trained, config, as_json=options.json)


def read_dense(
    run: Path, source: Path, *, config: Path | None, overrides: list[str], checks: Sequence[Check] = ()
) -> tuple[AnyConfig, AnyEvaluateConfig]:
    """Return the run's config and what is to be evaluated: as the run does it, but for the overrides."""
    if config is not None:
        raise ConfigError(str(config), ["is for classifiers; of a run of launch/dense.py give key=value"])
    begun, name = read_run_config(run), str(run / "config.yaml")
    trained: AnyConfig = build_config(choose_class(TASKS, begun, source=name), begun, source=name)
    values: dict[str, Any] = {"source": source, "precision": trained.precision}
    if trained.evaluation is not None:
        values["evaluation"] = to_values(trained.evaluation)
    problems = apply_overrides(values, overrides)
    return trained, build_config(
        EVALUATIONS[trained.task], values, source=str(source), problems=problems, checks=checks
    )


def _report(trained: AnyConfig, config: AnyEvaluateConfig, *, as_json: bool) -> None:
    from dense.evaluation import evaluate_dense  # torch takes seconds, which bad input need not wait for
    from hornet.training.detection_results import FILES
    from hornet.training.evaluate import format_evaluation

    world = read_world()
    found = evaluate_dense(trained, config, world=world)
    if not world.is_main:
        return
    row = {"weights": config.weights, **asdict(found)}
    if as_json:
        print_to_pipe(json.dumps(replace_non_finite(row), allow_nan=False))
        return
    data = config.evaluation
    if isinstance(data, SegmentationEvaluationConfig):
        seen = f"{data.mode}, factors {list(data.factors)}, {'mirrored too' if data.flip else 'not mirrored'}"
    else:
        seen = f"shorter edge {data.short_edge}, longer one {data.max_long_edge} at most"
    print_to_pipe(f"{config.source} ({config.weights} weights) on {data.shards}, split {data.split}; {seen}")
    print_to_pipe(f"  {format_evaluation(row)}")
    if isinstance(config, EvaluateInstancesConfig) and config.results is not None:
        print_to_pipe(f"what was found is in {config.results}: {' and '.join(FILES.values())}")

"""Evaluate a run, a checkpoint or a weight file on a labelled set: accuracy, loss, calibration, classes."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hornet.cli import print_to_pipe
from hornet.cli.checks import EVALUATION
from hornet.cli.command_line import exit_on_bad_input
from hornet.cli.configs import find_config
from hornet.cli.evaluate_dense import evaluate_dense_run, find_dense_run
from hornet.cli.sources import require_source
from hornet.config import Check, build_config, describe_fields, read_settings
from hornet.durable import replace_non_finite
from hornet.model.sizes import NATIVE_SIZE
from hornet.overrides import apply_overrides
from hornet.runs.begun import find_run, read_run_config
from hornet.stages.config import EvaluateConfig
from hornet.stages.preprocessing import NOT_FINITE, add_preprocessing, describe_used, take_from_run
from hornet.stages.result_place import find_place, require_free
from hornet.training.config import Weights
from hornet.world import read_world

EPILOG = f"""examples:
  python launch/evaluate.py runs/demo/finetune weights=ema
  python launch/evaluate.py hornet_tiny_gf.pth evaluation.shards=data/imagenet-1k
  torchrun --nproc_per_node 8 launch/evaluate.py runs/large/checkpoints/step_00093600 weights=both sizes=[224,288,384]
  python launch/evaluate.py runs/large --config configs/evaluate/imagenet_a.yaml evaluation.shards=data/imagenet-a
  python launch/evaluate.py runs/dense/NAME evaluation.flip=true        a segmenter or detector (docs/dense.md)

For a run or a checkpoint in one, the set, its preprocessing and the precision are by default those of the run's own
config.yaml. For a weight file they are the original's: fp32, a crop of 0.875 below 384 pixels, and from 384 on the
whole image, warped (evaluation.crop_fraction=null). What was used is printed. A HorNet is recognised by what its file
holds; of other networks model says the name.

Of a run, evaluation.json, evaluation.md and evaluation.svg are written to RUN/evaluations/SET_SPLIT (of another
question to the same set beside it, to SET_SPLIT-2 and so on), else to output.
docs/evaluate.md explains the numbers, and the protocols of ImageNet's relatives.

keys:
{describe_fields(EvaluateConfig)}"""


def main() -> None:
    """Read the command line, then evaluate."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="run directory, checkpoint folder or weight file")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file with the keys below")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="set a key; dots nest")
    options = parser.parse_intermixed_args()
    exit_on_bad_input(lambda: evaluate(options))


def evaluate(options: argparse.Namespace) -> None:
    """Evaluate what the command line names, a classifier or a run of a dense task."""
    if (run := find_dense_run(options.source)) is not None:
        evaluate_dense_run(run, options)
        return
    config = read_config(options.source, config=options.config, overrides=options.overrides, checks=EVALUATION)
    report(config, as_json=options.json)


def read_config(
    source: Path, *, config: Path | None, overrides: list[str], checks: Sequence[Check] = ()
) -> EvaluateConfig:
    """Take the run's own evaluation settings, then --config, then the overrides."""
    require_source(source)
    values: dict[str, Any] = {"source": source}
    problems: list[str] = []
    if (run := find_run(source)) is not None:
        values |= take_from_run(read_run_config(run))
    if config is not None:
        given, problems = read_settings(find_config(config))
        section = given.get("evaluation")
        if isinstance(section, dict) and isinstance(values.get("evaluation"), dict):
            given = {**given, "evaluation": {**values["evaluation"], **section}}
        values |= given
    problems += apply_overrides(values, overrides)
    name = str(config or source)
    if "model" not in values and source.is_file():  # all else is looked at first: recognising takes seconds
        data = {"image_size": NATIVE_SIZE, **add_preprocessing(values)["evaluation"]}
        early = {**values, "evaluation": data}
        build_config(EvaluateConfig, early, source=name, problems=problems, checks=checks)
        values = add_recognised(values)
    return build_config(EvaluateConfig, add_preprocessing(values), source=name, problems=problems, checks=checks)


def add_recognised(values: Mapping[str, Any]) -> dict[str, Any]:
    """Add the network of a weight file, and the image size that it is shaped for unless one is given."""
    from hornet.stages.recognise import recognise_file

    kind: Weights = "ema" if str(values.get("weights")) == "ema" else "raw"
    found = recognise_file(values["source"], weights=kind)
    print(f"{values['source']}: is a {found.model}, for {found.image_size} pixels", file=sys.stderr)
    data = dict(values.get("evaluation") or {})
    if not values.get("sizes"):
        data.setdefault("image_size", found.image_size)
    return {**values, "model": found.model, "evaluation": data}


def report(config: EvaluateConfig, *, as_json: bool) -> None:
    """Evaluate, let rank 0 write what was found, and print it."""
    require_free(config)
    from hornet.stages.evaluation import evaluate_weights  # torch takes seconds, which bad input need not wait for
    from hornet.stages.results import (
        describe,
        format_corruptions,
        format_probes,
        format_table,
        write_results,
    )
    from hornet.training.evaluate import format_evaluation, has_finite_loss

    world = read_world()
    evaluated = evaluate_weights(config, world=world)
    if not world.is_main:
        return
    place = find_place(config, evaluated)
    if place is not None:
        write_results(config, evaluated, place)
    if as_json:
        print_to_pipe(json.dumps(replace_non_finite(describe(config, evaluated, with_classes=False)), allow_nan=False))
    else:
        data = config.evaluation
        print_to_pipe(
            f"{config.source} ({config.weights} weights) on {data.shards}, split {data.split}; {describe_used(config)}"
        )
        for row in evaluated.rows if len(evaluated.rows) == 1 else ():
            error = 100 * row.measurement.calibration.error
            print_to_pipe(f"  {format_evaluation(asdict(row.measurement.evaluation))}; calibration error {error:.2f} %")
        lines = [*format_table(evaluated), ""] if len(evaluated.rows) > 1 else []
        lines += [*format_corruptions(evaluated), *format_probes(evaluated)]
        print_to_pipe("\n".join([*lines, *([f"written to {place.folder}"] if place else [])]))
    if not all(has_finite_loss(asdict(row.measurement.evaluation)) for row in evaluated.rows):
        print(NOT_FINITE, file=sys.stderr)


if __name__ == "__main__":
    main()

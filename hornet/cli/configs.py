"""The configs that come with the package: what they are, and `--config` finds them by name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hornet.cli import print_to_pipe
from hornet.config import ConfigError
from hornet.world import read_world

FOLDER = Path(__file__).resolve().parents[1] / "configs"
"""In a checkout a link to its configs/."""

PREFIX = "hornet:"
NEARNESS = 0.75
"""Least share of letters in common, 0 to 1, at which a name is proposed; .yaml alone gives 0.4 to 0.6."""
NUM_PROPOSED = 5
"""Of a folder's files."""


def main() -> None:
    """Print a line for each config."""
    parser = argparse.ArgumentParser(
        description="List the configs that come with the package. `--config NAME` takes one wherever no file has that "
        f"name; `--config {PREFIX}NAME` takes one in any case."
    )
    parser.parse_args()
    names = list_configs()
    width = max(map(len, names))
    lines = (f"{name:{width}}  {(FOLDER / name).read_text().splitlines()[0].lstrip('# ')}" for name in names)
    print_to_pipe("\n".join(lines))


def list_configs() -> list[str]:
    """Return the names of the configs that come with the package, such as `demo/pretrain.yaml`."""
    return sorted(str(path.relative_to(FOLDER)) for path in FOLDER.glob("*/*.yaml"))


def find_config(given: Path) -> Path:
    """Return the file that `--config` means: the one of that name, else one that comes with the package.

    Raises ConfigError, with the nearest name, if there is none.
    """
    wanted = str(given)
    name = wanted.removeprefix(PREFIX).removeprefix("configs/")
    names = list_configs()
    is_here = given.exists() and not wanted.startswith(PREFIX)
    shipped = [other for other in names if other.startswith(f"{name}/")]
    if given.is_dir() if is_here else shipped:
        inside = sorted(map(str, given.glob("*.yaml"))) if is_here else shipped
        hint = f"did you mean {' or '.join(inside[:NUM_PROPOSED])}?" if inside else "give a YAML file"
        raise ConfigError(wanted, [f"is a folder; {hint}"])
    if is_here:
        return given
    if name in names:
        if not wanted.startswith(PREFIX) and read_world().is_main:
            print(f"config: {given} is not here; taken is {PREFIX}{name}, which comes with hornet", file=sys.stderr)
        return FOLDER / name
    beside = [str(path) for path in sorted(given.parent.glob("*.yaml"))]
    namesakes = [other for other in names if Path(other).name == Path(name).name]
    near = get_close_matches(wanted, beside, n=1, cutoff=NEARNESS) or namesakes[:1]
    near = near or get_close_matches(name, names, n=1, cutoff=NEARNESS)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ConfigError(wanted, [f"no such file; {hint}`hornet configs` lists those that come with the package"])


def find_stage(values: Mapping[str, Any]) -> str | None:
    """Return the stage that settings are of, by what no other stage's have; None if they leave it open.

    It is the name of the script in launch/: pretrain, finetune or dense.
    """
    schedule = values.get("schedule")
    is_dense = "task" in values or (isinstance(schedule, Mapping) and "num_steps" in schedule)
    found = {"pretrain": "zero" in values, "dense": is_dense, "finetune": "start" in values and not is_dense}
    stages = [stage for stage, is_there in found.items() if is_there]
    return stages[0] if len(stages) == 1 else None


def require_no_study(values: Mapping[str, Any], *, source: str) -> None:
    """Raise ConfigError if settings are those of a study of many runs."""
    if "groups" in values:
        raise ConfigError(
            source, [f"is a study of many runs; plan it by `python launch/scaling.py plan --config {source}`"]
        )


def require_stage(values: Mapping[str, Any], stage: str, *, source: str) -> None:
    """Raise ConfigError, in one sentence and not key by key, if settings are those of another stage."""
    require_no_study(values, source=source)
    found = find_stage(values)
    if found not in (None, stage):
        raise ConfigError(source, [f"is for launch/{found}.py and not for launch/{stage}.py; start it with that"])

"""Where an evaluation is written, so that it takes nobody's place but that of the same one, asked again.

A set has a name, and where another one has taken that already its fingerprint too. Evaluations of a set that ask for
something else, or are of weights of another step, lie beside one another: SET_SPLIT, SET_SPLIT-2, and so on.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornet.config import to_values
from hornet.errors import UserError
from hornet.runs.begun import find_run
from hornet.stages.config import EvaluateConfig

if TYPE_CHECKING:
    from hornet.stages.evaluation import Evaluated  # torch takes seconds, which a refusal need not wait for

FOLDER = "evaluations"
"""Of a run, which holds a folder for each evaluation."""
FILE = "evaluation.json"
QUESTION = "question"
"""Key in it: what was asked, of which set, and of weights of which step."""
NUM_DIGITS = 8
"""Of a fingerprint, in a folder's name."""
UNASKED = ("source", "output", "evaluation")
HOW_IT_IS_READ = {
    "shards",
    "index",
    "num_workers",
    "prefetch",
    "max_bad_sample_rate",
    "remote",
    "batch_size",
    "per_image",
}
"""Of evaluation: what changes no number; which set it is, its fingerprint says."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an evaluation goes."""

    folder: Path
    """For its files; made where it is not there yet."""
    board: Path | None
    """For TensorBoard, of the same question about weights of any step; None outside of a run."""


def find_place(config: EvaluateConfig, evaluated: Evaluated) -> Place | None:
    """Return where to write: `output`, or below the run that the weights are of; None for nowhere."""
    if config.output is not None:
        return Place(folder=config.output, board=None)
    run = find_run(config.source)
    if run is None:
        return None
    question, board = describe_question(config, evaluated), None
    name = _name_set(run / FOLDER, config, evaluated)
    for number in itertools.count(1):
        folder = run / FOLDER / (name if number == 1 else f"{name}-{number}")
        found = _read(folder)
        if found is None or found.get(QUESTION) == question:
            break
        if board is None and _without_step(found.get(QUESTION)) == _without_step(question):
            board = folder.name
    return Place(folder=folder, board=run / "tensorboard" / FOLDER / (board or folder.name))


def describe_question(config: EvaluateConfig, evaluated: Evaluated) -> dict[str, Any]:
    """Return, as JSON values, what an evaluation is the answer to: two with the same have the same numbers."""
    asked = {"set": evaluated.set_fingerprint, "step": evaluated.step, "settings": describe_settings(config)}
    return asked if evaluated.step is not None else {**asked, "source": str(config.source)}


def describe_settings(config: EvaluateConfig) -> dict[str, Any]:
    """Return the settings that numbers depend on, as JSON values."""
    values = to_values(config)
    seen = {key: value for key, value in values["evaluation"].items() if key not in HOW_IT_IS_READ}
    asked = {key: value for key, value in values.items() if key not in UNASKED}
    settings: dict[str, Any] = json.loads(json.dumps({**asked, "evaluation": seen}))
    return settings


def require_free(config: EvaluateConfig) -> None:
    """Raise UserError if `output` holds an evaluation of other weights, another set or with other settings."""
    found = None if config.output is None else _read(config.output)
    if found is None:
        return
    settings = _object(found.get(QUESTION)).get("settings")
    mine = (str(config.source), str(config.evaluation.shards), describe_settings(config))
    if (found.get("source"), found.get("set"), settings) != mine:
        raise UserError(
            f"output: {config.output} holds another evaluation, of {found.get('source')} on {found.get('set')}; name "
            "another folder, or remove that one"
        )


def _name_set(home: Path, config: EvaluateConfig, evaluated: Evaluated) -> str:
    """Return SET_SPLIT, with the set's fingerprint behind its name if that is another set's, or may be."""
    name, fingerprint = evaluated.set_name.replace("/", "_"), evaluated.set_fingerprint
    subset = f"_{Path(config.judge.subset).name}" if config.judge.subset else ""
    rest = f"_{config.evaluation.split}{subset}"
    found = _read(home / f"{name}{rest}")
    is_other = found is not None and _object(found.get(QUESTION)).get("set") != fingerprint
    return f"{name}-{fingerprint[:NUM_DIGITS]}{rest}" if is_other else f"{name}{rest}"


def _read(folder: Path) -> Mapping[str, Any] | None:
    """Return what a folder's evaluation.json holds, nothing if it is damaged; None if there is none."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        return _object(json.loads(path.read_text()))
    except (OSError, ValueError, RecursionError):
        return {}


def _without_step(question: Any) -> dict[str, Any]:
    return {key: value for key, value in _object(question).items() if key != "step"}


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}

"""What a run learns, as one digest that can be computed before it starts and is found in its summary.json afterwards.

Two configs with the same digest ask for the same run; a summary with another digest than its config's is of another.
Imports no torch. Not here: the digest of the samples of a step (hornet/digest.py).
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from hornet.config import Settings, build_config, flatten_values, list_settings, to_values
from hornet.errors import UserError
from hornet.formats import UNWRITTEN
from hornet.shards.shard_set import open_shards
from hornet.stages.config import StageConfig

START_FROM = "start.from"
"""Where a finetuning's weights come from; what they are counts, not where they lie."""
NAMES = ("run.name", START_FROM)
"""Settings that are not resumable and yet only say what things are called."""


def digest_run(config: StageConfig, *, parent: str | None = None) -> str:
    """Return 64 hex digits of what the run of `config` learns and is measured on. Opens its sets, and writes nothing.

    The same as the `digest` of its summary.json. `parent` is the digest of the run that a finetuning starts from, or of
    its file of weights (`identify_weights`).
    Raises UserError if a set is missing or damaged, or if `parent` is missing or of no use.
    """
    train, evaluation = (
        None if part is None else open_shards(part.shards, part.split, remote=part.remote, index=part.index).fingerprint
        for part in (config.data, config.evaluation)
    )
    assert train is not None
    return digest_parts(config, train=train, evaluation=evaluation, parent=parent)


def digest_parts(config: Settings, *, train: str, evaluation: str | None, parent: str | None) -> str:
    """Return the digest of a run whose sets have these fingerprints (`fingerprint_split`).

    Raises UserError if `parent` is missing or of no use.
    """
    values = list_learned(config)
    if has_start(config) and parent is None:
        raise UserError(f"{START_FROM}: a finetuning run has no digest without that of the weights it starts from")
    if parent is not None and not has_start(config):
        raise UserError("a pretraining run starts from no other's weights; give no parent")
    content = {"config": values, "train": train, "evaluation": evaluation, "parent": parent}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def has_start(config: Settings) -> bool:
    """Whether the run starts from another's weights, as a finetuning does."""
    return START_FROM in list_settings(type(config)) and getattr(config, "start", None) is not None


def list_learned(config: Settings) -> dict[str, Any]:
    """Return the settings that say what is learned, by dotted key, as JSON values.

    Those are all but names and what is declared `resumable()`. A setting that came with a later release is left out
    at the value that does as before: so a digest outlives the setting's coming.
    """
    settings = list_settings(type(config))
    plain = build_config(type(config), to_values(config), source="config")  # numbers of the type their field has
    return {
        key: value
        for key, value in flatten_values(to_values(plain), settings=settings)
        if key not in NAMES and not settings[key].is_resumable and not (key in UNWRITTEN and value == UNWRITTEN[key])
    }

"""What is given as weights, looked at before anything else is: a folder or file that holds none is told at once."""

from __future__ import annotations

import os
from pathlib import Path

from hornet.config import ConfigError
from hornet.errors import UserError
from hornet.runs.begun import explain_no_run, find_run, is_run
from hornet.training.checkpoints.foreign import FOLDER_FILES, read_head, read_weights_head

EXPECTED = "a run directory, a checkpoint folder or a weight file"
PARTS = (*FOLDER_FILES, "manifest.json", "checkpoints", ".metadata")
"""A folder with one of these is one of weights, a checkpoint, or a run that has lost its other files; torch's
distributed checkpoints, with the last, are refused by those who read weights, who know what to do."""


def require_source(source: Path, *, expected: str = EXPECTED) -> None:
    """Raise ConfigError, saying what is there, unless that may be a run, a checkpoint or weights."""
    if not os.path.lexists(source):  # a link that leads nowhere is there; the reader says what is wrong with it
        raise ConfigError(str(source), [f"does not exist; give {expected}"])
    if not source.is_dir():
        try:
            (read_head if source.name.endswith(".index.json") else read_weights_head)(source)
        except UserError as error:
            raise ConfigError(str(source), [str(error).removeprefix(f"{source} ")]) from error
    elif find_run(source) is None and not is_run(source) and not any((source / part).exists() for part in PARTS):
        raise ConfigError(str(source), [explain_no_run(source, expected=expected)])

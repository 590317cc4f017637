"""The weights of a finished or running run, from whatever engine wrote its checkpoint."""

from __future__ import annotations

from torch import Tensor

from hornet.errors import UserError
from hornet.training.checkpoints.checkpoint import Checkpoint
from hornet.training.checkpoints.unpickling import load_pickled
from hornet.training.config import Weights

MADE_OF_OTHERS = "average"
"""The engine of a checkpoint that no training wrote, but that was made of other weights (finetune/average.py)."""
AVERAGE_FILE = "weights.pt"


def read_weights(checkpoint: Checkpoint, *, weights: Weights) -> dict[str, Tensor]:
    """Return the fp32 weights by parameter name, on the CPU, without any process group.

    Raises UserError if averaged weights are asked for and the run kept none.
    """
    engine = checkpoint.identity["engine"]
    if engine == "deepspeed":
        from hornet.training.engines import deepspeed_files as files  # imports deepspeed only if its shards are read

        found = files.ZeroCheckpoint(checkpoint.folder).read_all(files.WEIGHT if weights == "raw" else files.EMA)
    elif engine == "accelerate":
        from hornet.training.engines import accelerate

        found = (
            accelerate.read_state(checkpoint.folder)["model"]
            if weights == "raw"
            else accelerate.read_ema(checkpoint.folder)
        )
    elif engine == MADE_OF_OTHERS:
        found = (
            load_pickled(checkpoint.folder / AVERAGE_FILE, classes={}, mmap=False)["model"] if weights == "raw" else {}
        )
    else:
        raise UserError(f"{checkpoint.folder}: was written by an engine this code does not know: {engine!r}")
    if not found:
        raise UserError(
            f"{checkpoint.folder}: holds no averaged weights (optimizer.ema_decay was null); ask for raw ones"
        )
    return found

"""All that we use of DeepSpeed beyond what it promises to keep: each name once, and asked for at the start.

A release that renames one of them ends a run before its first step, not with weights that were never clipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from hornet.errors import UserError

_OF_ENGINE = ("_config", "_copy_recovery_script")
_OF_OPTIMIZER = {
    0: (),
    1: ("scaled_global_norm", "update_lp_params"),
    2: ("scaled_global_norm", "update_lp_params"),
    3: ("_get_norm_groups", "_reassign_or_swap_out_partitioned_parameters", "fp32_partitioned_groups_flat"),
}


def require_private_names(engine: Any, *, stage: int) -> None:
    """Raise UserError if the installed DeepSpeed lacks a name used here."""
    import deepspeed

    missing = [f"engine.{name}" for name in _OF_ENGINE if not hasattr(engine, name)]
    missing += [f"optimizer.{name}" for name in _OF_OPTIMIZER[stage] if not hasattr(engine.optimizer, name)]
    if missing:
        raise UserError(
            f"deepspeed {deepspeed.__version__} lacks {', '.join(missing)}, which this code uses; install the version "
            "that requirements.lock names"
        )


def get_config(engine: Any) -> Any:
    """Return the engine's parsed config, which a checkpoint engine is made from."""
    return engine._config


def leave_out_recovery_scripts(engine: Any) -> None:
    """Drop no scripts beside the checkpoints; `python -m deepspeed.utils.zero_to_fp32` is the same."""
    engine._copy_recovery_script = lambda _folder: None


def leave_out_shared_memory_op() -> None:
    """Say that an op of the CPU's is not there, which would need a compiler and 26 s."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def watch_norm(engine: Any, *, stage: int, decide: Callable[[float], bool]) -> None:
    """Have `decide` see the norm where ZeRO computes it: a norm of infinity makes ZeRO drop the step by itself.

    Nothing is watched at stage 0, which has no norm of its own.
    """
    optimizer = engine.optimizer
    if stage in (1, 2):
        measure = optimizer.scaled_global_norm

        def judged_norm() -> Tensor:
            norm: Tensor = measure()
            return norm if decide(float(norm)) else norm * math.inf

        optimizer.scaled_global_norm = judged_norm
    elif stage == 3:
        from deepspeed.runtime.utils import combine_grad_norm_groups

        measure_groups = optimizer._get_norm_groups

        def judged_groups() -> list[Tensor]:
            norms: list[Tensor] = measure_groups()
            return norms if decide(float(combine_grad_norm_groups(norms))) else [norms[0] * math.inf]

        optimizer._get_norm_groups = judged_groups


def reassign_partitioned_parameters(optimizer: Any, number: int) -> None:
    """Make stage 3's partitions of group `number` those of its fp32 copy."""
    optimizer._reassign_or_swap_out_partitioned_parameters(number)

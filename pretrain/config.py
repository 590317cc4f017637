"""The config of a pretraining run, and the rules that involve two of its parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hornet.errors import UserError
from hornet.stages.config import StageConfig
from hornet.training.clipping import require_halves
from hornet.training.engines.zero_config import ZeroConfig


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(StageConfig):
    """One pretraining run."""

    zero: ZeroConfig
    """DeepSpeed ZeRO and precision."""

    def _find_problems(self) -> Iterator[str]:
        yield from super()._find_problems()
        if self.model.compile and self.zero.stage == 3:
            yield (
                "model.compile: gives dozens of small graphs under zero.stage=3, which gathers each layer's parameters "
                "by hooks; use stage 0 to 2, or model.compile=false"
            )


def require_clipping(config: PretrainConfig, *, num_micro_steps: int) -> None:
    """Raise UserError if gradients that ZeRO has taken apart, or half a micro step, would have to be clipped."""
    clipping = config.recipe.clipping
    require_halves(clipping, num_micro_steps=num_micro_steps)
    if clipping != "standard" and config.zero.stage > 0 and num_micro_steps > 1:
        raise UserError(
            f"recipe.clipping: {clipping} clips between two of the {num_micro_steps} micro steps, but with "
            f"zero.stage={config.zero.stage} the gradient is in slices by then; use zero.stage=0 or "
            "recipe.clipping=standard"
        )

"""How a global batch is divided over ranks and micro batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from hornet.errors import UserError
from hornet.quantities import list_divisors


def find_batch_problems(global_batch_size: int, micro_batch_size: int | Literal["auto"]) -> Iterator[str]:
    """Yield a sentence for each batch without an image."""
    if global_batch_size < 1:
        yield f"global_batch_size: must be at least 1, not {global_batch_size}"
    if micro_batch_size != "auto" and micro_batch_size < 1:
        yield f"micro_batch_size: must be at least 1, not {micro_batch_size}"


def check_division(global_batch_size: int, *, num_ranks: int, micro_batch_size: int) -> None:
    """Raise UserError, saying what would do, unless the global batch is whole micro batches on every rank."""
    if problems := list(find_batch_problems(global_batch_size, micro_batch_size)):
        raise UserError("\n".join(problems))
    if global_batch_size % num_ranks:
        raise UserError(
            f"global_batch_size {global_batch_size} cannot be divided over {num_ranks} ranks; "
            f"world sizes that divide it: {_join(list_divisors(global_batch_size))}"
        )
    rank_batch_size = global_batch_size // num_ranks
    if rank_batch_size % micro_batch_size:
        advice = f"micro_batch_size may be {_join(list_divisors(rank_batch_size))}"
        if global_batch_size % micro_batch_size == 0:
            advice += f", or the world size {_join(list_divisors(global_batch_size // micro_batch_size))}"
        raise UserError(
            f"global_batch_size {global_batch_size} over {num_ranks} ranks leaves {rank_batch_size} images a rank, "
            f"which is not a multiple of micro_batch_size {micro_batch_size}; {advice}"
        )


def _join(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))

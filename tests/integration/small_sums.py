"""Small sums in worlds of several sizes; run as a script by test_process_group.py.

Usage: python -m tests.integration.small_sums RANKS... Each rank of each world prints a line of JSON.
"""

import json
import resource
import sys

import torch

from hornet.drills.forked_ranks import run_world
from hornet.errors import UserError
from hornet.training.process_group import gather_from_all, max_over_ranks, raise_together, sum_over_ranks


def tell(world):
    mine = torch.tensor([0.1 * (world.rank + 1), 1e16 if world.rank == 1 else 1.0], dtype=torch.float64)
    error = ""
    try:
        raise_together(UserError("lost its disk") if world.rank == world.num_ranks - 1 else None)
    except UserError as raised:
        error = str(raised)
    row = {
        "sum": [value.hex() for value in sum_over_ranks(mine).tolist()],
        "wrapped": int(sum_over_ranks(torch.tensor(2**62 + 1))),
        "columns": sum_over_ranks(torch.arange(6).view(2, 3).t() * (world.rank + 1)).tolist(),
        "largest": max_over_ranks((world.rank * 7) % 5),
        "error": error,
        "limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    }
    rows = gather_from_all(row)
    if world.is_main:
        print(json.dumps({"num_ranks": world.num_ranks, "rows": rows}), flush=True)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    for number in sys.argv[1:]:
        run_world(int(number), tell)

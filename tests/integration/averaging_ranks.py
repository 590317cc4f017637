"""launch/average.py's work in worlds of several sizes; run as a script by test_average.py.

Usage: python -m tests.integration.averaging_ranks FOLDER SET RANKS... A world of one writes FOLDER/run and
FOLDER/other; then rank 0 of each world prints a line of JSON.
"""

import json
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from finetune import average
from hornet.cli.average import read_config
from hornet.drills.forked_ranks import run_world
from tests.unit.stages.test_average import write_run


def write_runs(folder, toy_set):
    for name, seeds in (("run", (1, 2, 3)), ("other", (4,))):
        write_run(folder / name, toy_set, seeds=seeds, overrides=["evaluation.batch_size=7"])


def tell(world, folder):
    average.open_process_group = lambda *_arguments, **_names: nullcontext()  # the world's own is open
    for method, words in (("best", ["run", "count=2"]), ("soup", ["run", "other"])):
        words = [word if "=" in word else f"{folder}/{word}" for word in words]
        config = read_config(method, [*words, f"output={folder}/{method}_{world.num_ranks}"])
        averaged = average.average_weights(config, world=world)
        if world.is_main:
            rows = [asdict(row) for row in averaged.rows]
            print(json.dumps({"num_ranks": world.num_ranks, "method": method, "rows": rows}), flush=True)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    run_world(1, lambda _world: write_runs(place, sys.argv[2]))
    for number in sys.argv[3:]:
        run_world(int(number), lambda world: tell(world, place))

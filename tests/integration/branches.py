"""A trunk, a branch of it and the run of its length, under every ZeRO stage; run as a script by test_branch.py.

Usage: python -m tests.integration.branches CONFIG. The runs are ordinary ones but for the process group, which all of
them share, since each start would take seconds of its own.
"""

import sys
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import hornet  # noqa: F401  registers the models
from hornet.config import load_config
from hornet.drills.forked_ranks import run_world
from pretrain.config import PretrainConfig
from pretrain.stage import pretrain

NUM_RANKS, STAGES = 2, range(4)
STABLE, TRUNK, SHORT, STEPS_PER_EPOCH = 5, 8, 7, 4
"""Steps before a cooldown, of the trunk, of its branch, and of an epoch."""


def list_lengths(num_steps):
    return [f"schedule.num_epochs={num_steps / STEPS_PER_EPOCH}", f"schedule.cooldown_share={1 - STABLE / num_steps}"]


def train_all(world, path):
    for stage in STAGES:
        names = {name: f"{name}_{stage}" for name in ("trunk", "short", "branch")}
        root = load_config(PretrainConfig, path=path, overrides=list_lengths(TRUNK)).run.root
        for name, overrides in (
            ("trunk", list_lengths(TRUNK)),
            ("short", list_lengths(SHORT)),
            ("branch", [*list_lengths(SHORT), f"run.branch_from={root / names['trunk']}"]),
        ):
            asked = [f"run.name={names[name]}", f"zero.stage={stage}", *overrides]
            pretrain(load_config(PretrainConfig, path=path, overrides=asked), world=world)


if __name__ == "__main__":
    with patch("hornet.stages.stage.open_process_group", lambda *_, **__: nullcontext()):
        run_world(NUM_RANKS, lambda world: train_all(world, Path(sys.argv[1])))

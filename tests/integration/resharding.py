"""Worlds of several sizes that write and read each other's ZeRO checkpoints; run as a script by test_resharding.py.

One process imports everything, then forks the ranks of one world after the other.
Usage: python -m tests.integration.resharding FOLDER PHASE..., a phase being `write:RANKS` or `read:RANKS`.

`write` trains under every stage, saves, and notes the truth as DeepSpeed's own functions tell it: every parameter's
weight, moments and average, and where the undisturbed run ends. `read` loads every checkpoint into every stage, and
notes how far it is from the truth, at once and after going on to the end.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from hornet.drills.forked_ranks import run_world
from hornet.training.checkpoints.checkpoint import find_checkpoint, load_checkpoint
from hornet.training.checkpoints.saver import Checkpointer
from hornet.training.checkpoints.state import RunState
from hornet.training.config import OptimizerConfig, RetentionConfig
from hornet.training.engines.deepspeed import DeepSpeedEngine, deepspeed
from hornet.training.engines.deepspeed_state import list_owners
from hornet.training.engines.zero_config import ZeroConfig

STAGES = (0, 1, 2, 3)
SAVED_STEP, LAST_STEP, DROPPED_STEP, BATCH_SIZE = 4, 8, 2, 12
OPTIMIZER = OptimizerConfig(weight_decay=0.1, betas=(0.8, 0.95), clip_grad_norm=0.5, ema_decay=0.7)
KINDS = ("exp_avg", "exp_avg_sq", "ema")


class Net(nn.Module):
    """35 + 20 decayed and 3 other elements: fewer than the ranks of the largest world; a buffer counts forwards."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.lower = nn.Linear(7, 5, bias=False)
        self.middle = nn.Linear(5, 4, bias=False)
        self.upper = nn.Parameter(torch.randn(3))
        self.register_buffer("num_forwards", torch.zeros(2))

    def no_weight_decay(self):
        return set()

    def forward(self, x):
        if self.training:
            self.num_forwards += 1
        return self.middle(torch.tanh(self.lower(x)))[:, :3] * self.upper


def compute_loss(model, batch, _seed):
    inputs, targets = batch
    return (model(inputs) - targets).square().mean()


def make_share(step, world):
    random = torch.Generator().manual_seed(step)
    inputs = torch.randn(BATCH_SIZE, 7, generator=random)
    share = BATCH_SIZE // world.num_ranks
    mine = slice(world.rank * share, (world.rank + 1) * share)
    return inputs[mine], inputs[mine, :3].cumsum(1)


def build(stage, world):
    share = BATCH_SIZE // world.num_ranks
    return DeepSpeedEngine(
        Net(),
        config=ZeroConfig(stage=stage, precision="fp32"),
        optimizer=OPTIMIZER,
        global_batch_size=BATCH_SIZE,
        micro_batch_size=share,
        compute_loss=compute_loss,
        derive_step_seed=lambda step, micro_step: 0,
        device=torch.device("cpu"),
    )


def train(engine, steps, world):
    for step in steps:
        is_kept = step != DROPPED_STEP
        share = make_share(step, world)
        engine.run_step([share], step=step, lr=0.02 / (step + 1), accept=lambda _loss, _norm, answer=is_kept: answer)


def tell_truth(engine, stage):
    """The whole state as DeepSpeed's own functions tell it, on every rank."""
    inner, base = engine._engine, engine._base_optimizer
    if stage in (1, 2):  # it links the first group's moments only
        inner.optimizer._hp_optimizer_states_linked = False
        inner.optimizer._lazy_init_hp_params_optimizer_state()
    truth = {}
    for name, parameter in inner.module.named_parameters():
        if stage == 0:
            truth[name] = {"weight": parameter.detach().clone()} | {k: base.state[parameter][k].clone() for k in KINDS}
        else:
            truth[name] = {"weight": deepspeed.utils.safe_get_full_fp32_param(parameter).clone()}
            for kind in KINDS:
                truth[name][kind] = deepspeed.utils.safe_get_full_optimizer_state(parameter, kind).clone()
    return truth


def describe(engine, stage):
    """What is not spread over ranks: step counts, hyper-parameters, buffers."""
    base = engine._base_optimizer
    owners = [owner for owner in list_owners(engine._engine, stage=stage) if "step" in base.state.get(owner, {})]
    return {
        "steps": sorted({float(base.state[owner]["step"]) for owner in owners}),
        "groups": [{key: value for key, value in group.items() if key != "params"} for group in base.param_groups],
        "buffers": {name: buffer.tolist() for name, buffer in engine._engine.module.named_buffers()},
        "counters": [engine._engine.global_steps, engine._engine.skipped_steps],
    }


def distance(left, right):
    return max(float((left[name][k] - right[name][k]).abs().max()) for name in left for k in left[name])


def write(folder, world):
    for stage in STAGES:
        engine = build(stage, world)
        train(engine, range(SAVED_STEP), world)
        here = folder / f"z{stage}_n{world.num_ranks}"
        checkpointer = Checkpointer(
            here,
            engine=engine,
            identity={},
            description={},
            world=world,
            retention=RetentionConfig(),
            find_best=lambda steps: None,
            require_sole=lambda: None,
        )
        checkpointer.save(RunState(step=SAVED_STEP))
        saved = {"truth": tell_truth(engine, stage), **describe(engine, stage)}
        checkpointer.finish()
        train(engine, range(SAVED_STEP, LAST_STEP), world)
        saved["end"] = tell_truth(engine, stage)
        if world.is_main:
            torch.save(saved, here / "truth.pt")
        dist.barrier()


def read(folder, world):
    rows = []
    for here in sorted(path for path in folder.iterdir() if path.is_dir()):
        saved = torch.load(here / "truth.pt")
        for stage in STAGES:
            engine, state = build(stage, world), RunState()
            load_checkpoint(find_checkpoint(here, world=world), engine=engine, state=state, identity={})
            names = list(saved["truth"])
            live = engine.read_parameters(names)
            row = {
                "written": here.name,
                "read": f"z{stage}_n{world.num_ranks}",
                "step": state.step,
                "state": distance(tell_truth(engine, stage), saved["truth"]),
                "same": all(saved[key] == value for key, value in describe(engine, stage).items()),
            }
            with engine.evaluation_model("ema"):
                averaged = engine.read_parameters(names)
            row["ema"] = max(float((averaged[name] - saved["truth"][name]["ema"]).abs().max()) for name in names)
            row["model"] = max(float((live[name] - saved["truth"][name]["weight"]).abs().max()) for name in names)
            back = engine.read_parameters(names)
            row["returned"] = all(torch.equal(back[name], live[name]) for name in names)
            train(engine, range(SAVED_STEP, LAST_STEP), world)
            row["end"] = distance(tell_truth(engine, stage), saved["end"])
            rows.append(row)
    if world.is_main:
        (folder / f"read_n{world.num_ranks}.json").write_text(json.dumps(rows))


if __name__ == "__main__":
    root = Path(sys.argv[1])
    for phase in sys.argv[2:]:
        verb, ranks = phase.split(":")
        function = {"write": write, "read": read}[verb]
        run_world(int(ranks), lambda world, function=function: function(root, world))

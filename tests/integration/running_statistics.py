"""A network with BatchNorm on two ranks under every ZeRO stage; run as a script by test_running_statistics.py.

Usage: python -m tests.integration.running_statistics FOLDER PHASE..., a phase being `write:RANKS` or `read:RANKS`.

`write` trains, saves on the way, goes on to the end and notes each rank's buffers after each step; `read` loads
checkpoints of the same and of another stage in a fresh engine, notes what it then holds, and goes on to the end.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from hornet.drills.forked_ranks import run_world
from hornet.training.config import OptimizerConfig
from hornet.training.engines.accelerate import AccelerateEngine
from hornet.training.engines.deepspeed import DeepSpeedEngine
from hornet.training.engines.zero_config import ZeroConfig
from hornet.training.process_group import gather_from_all

KINDS = (0, 1, 2, 3, "accelerate")
FOLLOWED = {0: 3, 1: 0, 2: 1, 3: 2}
"""Which other stage's checkpoint a stage goes on from; every pair is in resharding.py."""
BATCH_SIZE, SAVED_STEP, LAST_STEP, DROPPED_STEP = 12, 3, 5, 1
OPTIMIZER = OptimizerConfig(weight_decay=0.1, clip_grad_norm=0.5, ema_decay=0.7)


class Net(nn.Module):
    """A convolution, its BatchNorm, and an index that is not saved."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.convolution = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.register_buffer("index", torch.tensor([2, 1, 0]), persistent=False)

    def forward(self, x):
        return self.norm(self.convolution(x)).relu().mean((2, 3))[:, self.index]


def make_images(step, micro_step, *, rank, num_ranks):
    """This rank's share of a micro step's images; each image has a mean of its own."""
    random = torch.Generator().manual_seed(10 * step + micro_step)
    images = torch.randn(BATCH_SIZE, 2, 5, 5, generator=random) + torch.arange(BATCH_SIZE).view(-1, 1, 1, 1)
    return images.chunk(num_ranks)[rank]


def compute_loss(model, batch, _seed):
    return (model(batch).float() - torch.arange(3.0)).square().mean()


def build(kind, world):
    common = {
        "optimizer": OPTIMIZER,
        "compute_loss": compute_loss,
        "derive_step_seed": lambda step, micro_step: 0,
        "device": torch.device("cpu"),
    }
    if kind == "accelerate":
        return AccelerateEngine(Net(), precision="fp32", is_main=world.is_main, **common)
    return DeepSpeedEngine(
        Net(),
        config=ZeroConfig(stage=kind, precision="fp32"),
        global_batch_size=2 * BATCH_SIZE,
        micro_batch_size=BATCH_SIZE // world.num_ranks,
        **common,
    )


def read(engine):
    names = [name for name, _ in Net().named_parameters()] + list(list_buffers(Net()))
    return engine.read_parameters(names)


def list_buffers(model):
    return {name: tensor for name, tensor in model.named_buffers() if name != "index"}


def train(engine, steps, world):
    """Return the buffers after each step, of every rank."""
    history = []
    for step in steps:
        share = [make_images(step, micro_step, rank=world.rank, num_ranks=world.num_ranks) for micro_step in range(2)]
        engine.run_step(share, step=step, lr=0.02, accept=lambda _loss, _norm, step=step: step != DROPPED_STEP)
        history.append(gather_from_all({name: t for name, t in read(engine).items() if name in list_buffers(Net())}))
    return history


class Disk:
    """Writes at once what an engine gives it."""

    def take(self, path, state):
        torch.save(state, path)


def write(folder, world):
    for kind in KINDS:
        engine = build(kind, world)
        here = folder / f"{kind}_n{world.num_ranks}" / f"step_{SAVED_STEP:08d}"
        here.mkdir(parents=True, exist_ok=True)
        dist.barrier()
        history = train(engine, range(SAVED_STEP), world)
        engine.save(here, Disk())
        saved = read(engine)
        history += train(engine, range(SAVED_STEP, LAST_STEP), world)
        end = read(engine)
        if world.is_main:
            torch.save({"history": history, "saved": saved, "end": end}, here.parent / "truth.pt")
        dist.barrier()


def read_all(folder, world):
    rows = []
    for here in sorted(path for path in folder.iterdir() if path.is_dir()):
        for kind in KINDS:
            if here.name in (f"{kind}_n2", f"{FOLLOWED.get(kind)}_n2"):
                engine = build(kind, world)
                engine.load(here / f"step_{SAVED_STEP:08d}")
                loaded = gather_from_all(read(engine))
                history = train(engine, range(SAVED_STEP, LAST_STEP), world)
                rows.append({"written": here.name, "read": f"{kind}_n{world.num_ranks}", "loaded": loaded})
                rows[-1] |= {"history": history, "end": read(engine)}
    if world.is_main:
        torch.save(rows, folder / f"read_n{world.num_ranks}.pt")


if __name__ == "__main__":
    root = Path(sys.argv[1])
    for phase in sys.argv[2:]:
        verb, ranks = phase.split(":")
        function = {"write": write, "read": read_all}[verb]
        run_world(int(ranks), lambda world, function=function: function(root, world))

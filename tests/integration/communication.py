"""Every collective call of a step of the real engine, on two CPU ranks; run as a script by test_communication.py.

Usage: python -m tests.integration.communication FILE. Rank 0 writes FILE (JSON): the parameters' sizes and, by stage,
what was called: kind, type, bytes of the whole tensor.
"""

import json
import sys
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hornet.drills.forked_ranks import run_world
from hornet.training.engines.deepspeed import DeepSpeedEngine
from hornet.training.engines.zero_config import ZeroConfig
from tests.integration.zero_stages import (
    MICRO_BATCH_SIZE,
    NUM_MICRO_STEPS,
    NUM_RANKS,
    OPTIMIZER,
    build_model,
    compute_loss,
    lr_at,
    make_micro_batch,
)

NUM_CLASSES, BUCKET_ELEMENTS = 3000, 400_000  # of the parameters, the head is above stage 3's threshold
COUNTED_STEP = 2  # stage 3 learns the order of the layers in the steps before
KINDS = {
    "c10d::allreduce_": "all_reduce",
    "c10d::_allgather_base_": "all_gather",
    "c10d::_reduce_scatter_base_": "reduce_scatter",
}


class Listener(TorchDispatchMode):
    """Notes what torch.distributed is asked for, below all of DeepSpeed's wrappers."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]
            name = func._schema.name
            self.calls.append([KINDS.get(name, name), str(tensors[0].dtype), max(t.nbytes for t in tensors)])
        return func(*args, **(kwargs or {}))


def count(world, file):
    heard = {}
    for stage in range(4):
        model = build_model(num_classes=NUM_CLASSES)
        sizes = [parameter.numel() for parameter in model.parameters()]
        engine = DeepSpeedEngine(
            model,
            config=ZeroConfig(stage=stage, precision="bf16", bucket_elements=BUCKET_ELEMENTS),
            optimizer=OPTIMIZER,
            global_batch_size=NUM_RANKS * NUM_MICRO_STEPS * MICRO_BATCH_SIZE,
            micro_batch_size=MICRO_BATCH_SIZE,
            compute_loss=compute_loss,
            derive_step_seed=lambda step, micro_step: 0,
            device=torch.device("cpu"),
        )
        for step in range(COUNTED_STEP + 1):
            batches = [make_micro_batch(step, world.rank, micro_step) for micro_step in range(NUM_MICRO_STEPS)]
            with Listener() as listener:
                engine.run_step(batches, step=step, lr=lr_at(step), accept=lambda _loss, _norm: True)
        heard[stage] = listener.calls
        engine._engine.destroy()
    if world.is_main:
        file.write_text(json.dumps({"num_elements": sizes, "calls": heard}))


if __name__ == "__main__":
    run_world(NUM_RANKS, lambda world: count(world, Path(sys.argv[1])))

"""Bytes of all tensors of the real engine on two CPU ranks, by ZeRO stage; run as a script by test_held_memory.py.

Usage: python -m tests.integration.held_memory FILE. Rank 0 writes FILE (JSON): the parameters' sizes and, by stage,
what is held when a step's last micro batch begins and when its backward pass ends, and the elements of parameters
before and after its forward pass.
"""

import dataclasses
import gc
import json
import sys
from pathlib import Path

import torch

from hornet.drills.forked_ranks import run_world
from hornet.training.engines.deepspeed import DeepSpeedEngine
from hornet.training.engines.zero_config import ZeroConfig
from tests.integration.zero_stages import (
    COUNTED_STEP,
    MICRO_BATCH_SIZE,
    NUM_MICRO_STEPS,
    NUM_RANKS,
    OPTIMIZER,
    build_model,
    compute_loss,
    count_tensor_bytes,
    lr_at,
    make_micro_batch,
    name_seed,
)

NUM_CLASSES, BUCKET_ELEMENTS = 3000, 400_000  # the head is above stage 3's threshold


def count(world, file):
    sizes = [parameter.numel() for parameter in build_model(num_classes=NUM_CLASSES).parameters()]
    held = {stage: measure(world, stage=stage) for stage in range(4)}
    if world.is_main:
        file.write_text(json.dumps({"num_elements": sizes, "stages": held}))


def measure(world, *, stage):
    gc.collect()
    before, found = count_tensor_bytes(), {}

    def note_backward(_gradient):
        found["bytes_in_backward"] = count_tensor_bytes() - before

    def compute_and_count(model, batch, seed):
        is_counted = seed == name_seed(COUNTED_STEP, world.rank, NUM_MICRO_STEPS - 1)
        if is_counted:
            found["bytes"] = count_tensor_bytes() - before
            found["before_forward"] = count_elements(model)
            batch[0].requires_grad_().register_hook(note_backward)
        loss = compute_loss(model, batch, seed)
        if is_counted:
            found["after_forward"] = count_elements(model)
        return loss

    engine = DeepSpeedEngine(
        build_model(num_classes=NUM_CLASSES),
        config=ZeroConfig(stage=stage, precision="fp32", bucket_elements=BUCKET_ELEMENTS),
        optimizer=dataclasses.replace(OPTIMIZER, ema_decay=0.9),
        global_batch_size=NUM_RANKS * NUM_MICRO_STEPS * MICRO_BATCH_SIZE,
        micro_batch_size=MICRO_BATCH_SIZE,
        compute_loss=compute_and_count,
        derive_step_seed=lambda step, micro_step: name_seed(step, world.rank, micro_step),
        device=torch.device("cpu"),
    )
    for step in range(COUNTED_STEP + 1):
        batches = [make_micro_batch(step, world.rank, micro_step) for micro_step in range(NUM_MICRO_STEPS)]
        engine.run_step(batches, step=step, lr=lr_at(step), accept=lambda _loss, _norm: True)
    engine._engine.destroy()
    return found


def count_elements(engine):
    """Elements of the parameters that are there whole; DeepSpeed leaves one of a parameter that it took apart."""
    return sum(parameter.data.numel() for parameter in engine.module.parameters() if parameter.data.numel() > 1)


if __name__ == "__main__":
    run_world(NUM_RANKS, lambda world: count(world, Path(sys.argv[1])))

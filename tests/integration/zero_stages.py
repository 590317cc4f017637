"""The same 200 steps under every ZeRO stage on two CPU ranks; run as a script by test_zero_stages.py.

Usage: python -m tests.integration.zero_stages FOLDER. Rank 0 writes FOLDER/results.json and FOLDER/weights.pt.
"""

import gc
import json
import sys
from pathlib import Path

import timm
import torch
from torch import nn
from torch.nn import functional

import hornet  # noqa: F401  registers the models
from hornet.drills.forked_ranks import run_world
from hornet.seeding import derive_seed
from hornet.training.config import OptimizerConfig
from hornet.training.engines.accelerate import AccelerateEngine
from hornet.training.engines.deepspeed import DeepSpeedEngine
from hornet.training.engines.zero_config import ZeroConfig
from hornet.training.optimizer import build_optimizer, set_lr

NUM_RANKS, NUM_MICRO_STEPS, MICRO_BATCH_SIZE, IMAGE_SIZE, NUM_CLASSES = 2, 2, 2, 32, 5
NUM_STEPS, NUM_SHORT_STEPS, COUNTED_STEP, MEASURED_STEP, BUCKET_ELEMENTS = 200, 6, 2, 4, 50_000
OPTIMIZER = OptimizerConfig(weight_decay=0.05, clip_grad_norm=1.0)
CLIP = OPTIMIZER.clip_grad_norm


def build_model(*, num_classes=NUM_CLASSES, **arguments):
    torch.manual_seed(7)
    return timm.create_model(
        "hornet_atto_gf",
        depths=(1, 1, 1, 1),
        img_size=IMAGE_SIZE,
        num_classes=num_classes,
        drop_path_rate=0.1,
        layer_scale_init=0.5,
        **arguments,
    )


def make_micro_batch(step, rank, micro_step):
    """Noise with a class's tint; the class is the image's number in the step modulo the classes."""
    first = (rank * NUM_MICRO_STEPS + micro_step) * MICRO_BATCH_SIZE
    labels = (torch.arange(first, first + MICRO_BATCH_SIZE) + step) % NUM_CLASSES
    random = torch.Generator().manual_seed(1000 * step + first)
    images = torch.randn(MICRO_BATCH_SIZE, 3, IMAGE_SIZE, IMAGE_SIZE, generator=random)
    return images + 0.5 * torch.sin(labels.view(-1, 1, 1, 1) * torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)), labels


def compute_loss(model, batch, seed):
    images, labels = batch
    torch.manual_seed(seed)  # drop path
    return functional.cross_entropy(model(images).float(), labels)


def name_seed(step, rank, micro_step):
    return derive_seed("test", step, rank * NUM_MICRO_STEPS + micro_step)


def lr_at(step):
    return 1e-3 * min(1.0, (step + 1) / 10)


def count_tensor_bytes():
    """Bytes of all tensors that live in this process, every storage once."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]
    tensors += [tensor.grad for tensor in tensors if tensor.is_leaf and tensor.grad is not None]
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in tensors
        if tensor.device.type != "meta"
    }
    return sum(storages.values())


def run(engine, world, *, num_steps):
    """Train; return losses and norms by step, and the weights."""
    names = [name for name, _ in build_model().named_parameters()]
    curve = {"loss": [], "norm": []}
    for step in range(num_steps):
        engine.norms.arm(step == MEASURED_STEP)
        batches = [make_micro_batch(step, world.rank, micro_step) for micro_step in range(NUM_MICRO_STEPS)]
        result = engine.run_step(batches, step=step, lr=lr_at(step), accept=lambda _loss, _norm: True)
        loss = result.loss.clone()
        torch.distributed.all_reduce(loss)
        curve["loss"].append(float(loss) / world.num_ranks)
        curve["norm"].append(result.grad_norm)
        if step == MEASURED_STEP:
            curve["parts"] = engine.norms.read(names, grad_norm=result.grad_norm)
    return curve, engine.read_parameters(names)


def run_zero(world, *, num_steps=NUM_SHORT_STEPS, clipping="standard", checkpointing=False, **zero):
    gc.collect()
    before, held = count_tensor_bytes(), []

    def compute_and_count(model, batch, seed):
        """Count when a step's second micro batch begins: moments and gradients are there, no activations."""
        if seed == name_seed(COUNTED_STEP, world.rank, NUM_MICRO_STEPS - 1):
            held.append(count_tensor_bytes() - before)
        return compute_loss(model, batch, seed)

    model = build_model()
    model.set_grad_checkpointing(checkpointing)
    engine = DeepSpeedEngine(
        model,
        config=ZeroConfig(precision="fp32", bucket_elements=BUCKET_ELEMENTS, **zero),
        optimizer=OPTIMIZER,
        clipping=clipping,
        global_batch_size=NUM_RANKS * NUM_MICRO_STEPS * MICRO_BATCH_SIZE,
        micro_batch_size=MICRO_BATCH_SIZE,
        compute_loss=compute_and_count,
        derive_step_seed=lambda step, micro_step: name_seed(step, world.rank, micro_step),
        device=torch.device("cpu"),
    )
    del model
    curve, weights = run(engine, world, num_steps=num_steps)
    engine._engine.destroy()
    return {**curve, "bytes": held[0]}, weights


def run_accelerate(world, *, clipping):
    engine = AccelerateEngine(
        build_model(),
        precision="fp32",
        optimizer=OPTIMIZER,
        clipping=clipping,
        compute_loss=compute_loss,
        derive_step_seed=lambda step, micro_step: name_seed(step, world.rank, micro_step),
        device=torch.device("cpu"),
        is_main=world.is_main,
    )
    return run(engine, world, num_steps=NUM_SHORT_STEPS)


def measure_parts(model):
    """Norms of gradient and weights by part, from whole tensors."""
    parts = {}
    for part in ("stages.0", "stages.3", "downsample_layers.1", "norm", "head"):
        inside = {name: p for name, p in model.named_parameters() if name.startswith(f"{part}.")}
        scales = [parameter for name, parameter in inside.items() if "gamma" in name]
        parts[part] = {
            "grad_norm": float(torch.cat([parameter.grad.flatten() for parameter in inside.values()]).norm()),
            "weight_norm": float(torch.cat([parameter.detach().flatten() for parameter in inside.values()]).norm()),
            "layer_scale": float(torch.cat(scales).abs().mean()) if scales else None,
        }
    return parts


def run_naively(*, clipping, num_steps):
    """The definition: one process, the ranks' micro batches one after the other, gradients added up by hand."""
    model, curve = build_model().train(), {"loss": [], "norm": []}
    optimizer = build_optimizer(model, OPTIMIZER)
    for step in range(num_steps):
        set_lr(optimizer.param_groups, lr_at(step))
        optimizer.zero_grad()
        losses = []
        for micro_step in range(NUM_MICRO_STEPS):
            for rank in range(NUM_RANKS):
                batch = make_micro_batch(step, rank, micro_step)
                loss = compute_loss(model, batch, name_seed(step, rank, micro_step))
                (loss / (NUM_RANKS * NUM_MICRO_STEPS)).backward()
                losses.append(float(loss.detach()))
            norm = torch.stack([parameter.grad.norm() for parameter in model.parameters()]).norm()
            if step == MEASURED_STEP:
                curve["parts"] = measure_parts(model)
            if (clipping == "paper" or micro_step == NUM_MICRO_STEPS - 1) and norm > CLIP:
                for parameter in model.parameters():
                    parameter.grad.mul_(CLIP / norm)
        optimizer.step()
        curve["loss"].append(sum(losses) / len(losses))
        curve["norm"].append(float(norm))
    return curve, {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def train_all(world, folder):
    """Every way to train that must learn the same; curves and weights by name."""
    runs = {f"zero_{stage}": run_zero(world, stage=stage, num_steps=NUM_STEPS) for stage in range(4)}
    runs["naive_standard"] = run_naively(clipping="standard", num_steps=NUM_SHORT_STEPS)
    runs["naive_paper"] = run_naively(clipping="paper", num_steps=NUM_SHORT_STEPS)
    runs["zero_0_paper"] = run_zero(world, stage=0, clipping="paper")
    for clipping in ("standard", "paper"):
        runs[f"accelerate_{clipping}"] = run_accelerate(world, clipping=clipping)
    for stage in (1, 2, 3):
        runs[f"zero_{stage}_offloaded"] = run_zero(world, stage=stage, offload_optimizer=True)
        runs[f"zero_{stage}_checkpointed"] = run_zero(world, stage=stage, checkpointing=True)
    num_parameters = nn.utils.parameters_to_vector(build_model().parameters()).numel()
    if world.is_main:
        curves = {name: curve for name, (curve, _) in runs.items()}
        (folder / "results.json").write_text(json.dumps({"num_parameters": num_parameters, "runs": curves}))
        torch.save({name: weights for name, (_, weights) in runs.items()}, folder / "weights.pt")


if __name__ == "__main__":
    run_world(NUM_RANKS, lambda world: train_all(world, Path(sys.argv[1])))

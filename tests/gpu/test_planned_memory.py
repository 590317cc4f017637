"""What is planned against what a GPU gave."""

import pytest
import torch
from timm.loss import SoftTargetCrossEntropy

from hornet.model.build import build_model
from hornet.model.config import ModelConfig
from hornet.planning.activations import measure_activations
from hornet.training.config import OptimizerConfig
from hornet.training.ema import attach_ema
from hornet.training.engines.zero_memory import count_data_parallel_bytes
from hornet.training.optimizer import build_optimizer, set_lr

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

SIZE, NUM_CLASSES, IMAGE_SIZE, NUM_MICRO_STEPS, NUM_STEPS = 64, 1000, 224, 2, 2


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_the_peak_is_as_planned(precision, activation_checkpointing):
    config = ModelConfig(name="hornet_tiny_gf", drop_path_rate=0.2, activation_checkpointing=activation_checkpointing)
    model = build_model(config, num_classes=NUM_CLASSES, image_size=IMAGE_SIZE, seed=0)
    num_elements = [parameter.numel() for parameter in model.parameters()]
    line = measure_activations(config, num_classes=NUM_CLASSES, image_size=IMAGE_SIZE, precision=precision)
    planned = count_data_parallel_bytes(num_elements, num_ranks=1, has_ema=True).total + line.count(SIZE)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    train(model.cuda().train(), precision=precision)
    assert planned == pytest.approx(torch.cuda.max_memory_allocated() - before, rel=0.1)


def train(model, *, precision):
    optimizer = build_optimizer(model, OptimizerConfig())
    attach_ema(optimizer, decay=0.999)
    set_lr(optimizer.param_groups, 1e-4)
    for _ in range(NUM_STEPS):
        for _ in range(NUM_MICRO_STEPS):
            compute_loss(model, precision=precision).backward()
        optimizer.step()
        optimizer.zero_grad()


def compute_loss(model, *, precision):
    images = torch.randn(SIZE, 3, IMAGE_SIZE, IMAGE_SIZE, device="cuda")
    targets = torch.full((SIZE, NUM_CLASSES), 1 / NUM_CLASSES, device="cuda")
    with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
        logits = model(images)
    return SoftTargetCrossEntropy()(logits.float(), targets)

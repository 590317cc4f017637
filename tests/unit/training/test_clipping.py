"""Clipping as the paper equals the original's loop over two micro batches, however many micro steps there are here."""

import math

import pytest
import torch

import hornet  # noqa: F401  registers the models
from hornet.training.engines.accelerate import AccelerateEngine
from hornet.training.engines.zero_config import ZeroConfig
from hornet.training.optimizer import OptimizerConfig, build_optimizer, set_lr

BATCH, NUM_STEPS, CLIP = 16, 5, 0.4
OPTIMIZER = OptimizerConfig(weight_decay=0.1, clip_grad_norm=CLIP)
NAMES = ["weight", "bias"]

pytestmark = pytest.mark.usefixtures("launched")


class Line(torch.nn.Linear):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(3, 2)

    def no_weight_decay(self):
        return set()


def draw(step, num_parts):
    """A step's images and targets in equal parts; the halves pull in other directions."""
    random = torch.Generator().manual_seed(step)
    images = torch.randn(BATCH, 3, generator=random)
    images[BATCH // 2 :] *= -3
    targets = torch.randn(BATCH, 2, generator=random) + 2
    return list(zip(images.chunk(num_parts), targets.chunk(num_parts), strict=True))


def compute_loss(model, batch, seed):
    images, targets = batch
    return ((model(images) - targets) ** 2).mean()


def run_as_the_original(*, num_micro_steps, clips_each=True):
    """engine.py in fp32, written naively: divide the loss, go backward, clip; step after the last micro batch."""
    model = Line()
    optimizer = build_optimizer(model, OPTIMIZER)
    norms = []
    for step in range(NUM_STEPS):
        set_lr(optimizer.param_groups, 0.1)
        optimizer.zero_grad()
        for number, batch in enumerate(draw(step, num_micro_steps)):
            (compute_loss(model, batch, 0) / num_micro_steps).backward()
            norm = math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in model.parameters()))
            if norm > CLIP and (clips_each or number == num_micro_steps - 1):
                for parameter in model.parameters():
                    parameter.grad *= CLIP / norm
        norms.append(norm)
        optimizer.step()
    return norms, {name: parameter.detach() for name, parameter in model.named_parameters()}


def run(kind, *, clipping, num_micro_steps):
    common = {
        "optimizer": OPTIMIZER,
        "compute_loss": compute_loss,
        "derive_step_seed": lambda step, micro_step: 0,
        "device": torch.device("cpu"),
        "clipping": clipping,
    }
    if kind == "accelerate":
        engine = AccelerateEngine(Line(), precision="fp32", is_main=True, **common)
    else:
        from hornet.training.engines.deepspeed import DeepSpeedEngine

        zero = ZeroConfig(stage=0, precision="fp32")
        sizes = {"global_batch_size": BATCH, "micro_batch_size": BATCH // num_micro_steps}
        engine = DeepSpeedEngine(Line(), config=zero, **sizes, **common)
    norms = [
        engine.run_step(draw(step, num_micro_steps), step=step, lr=0.1, accept=lambda loss, norm: True).grad_norm
        for step in range(NUM_STEPS)
    ]
    return norms, engine.read_parameters(NAMES)


def assert_same(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=1e-4)
    for name in NAMES:
        assert torch.allclose(found[1][name], expected[1][name], atol=1e-5), name


@pytest.mark.parametrize("kind", ["accelerate", "deepspeed"])
@pytest.mark.parametrize("num_micro_steps", [2, 4, 8, 16])
def test_paper_is_the_originals_two_micro_batches(kind, num_micro_steps):
    expected = run_as_the_original(num_micro_steps=2)
    assert_same(run(kind, clipping="paper", num_micro_steps=num_micro_steps), expected)
    standard = run_as_the_original(num_micro_steps=2, clips_each=False)
    assert standard[0] != pytest.approx(expected[0], rel=1e-2), "which is another thing than clipping once"


@pytest.mark.parametrize("kind", ["accelerate", "deepspeed"])
@pytest.mark.parametrize("num_micro_steps", [1, 2, 4, 8])
def test_every_micro_step_is_the_originals_loop_over_as_many(kind, num_micro_steps):
    expected = run_as_the_original(num_micro_steps=num_micro_steps)
    assert_same(run(kind, clipping="every_micro_step", num_micro_steps=num_micro_steps), expected)


@pytest.mark.parametrize("kind", ["accelerate", "deepspeed"])
@pytest.mark.parametrize("num_micro_steps", [1, 2, 8])
def test_standard_does_not_depend_on_the_micro_steps(kind, num_micro_steps):
    expected = run_as_the_original(num_micro_steps=2, clips_each=False)
    assert_same(run(kind, clipping="standard", num_micro_steps=num_micro_steps), expected)

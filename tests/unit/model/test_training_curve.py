"""Trained from the same weights on the same images, our network learns as the literal one does.

Equal to the bit they cannot be: rounding grows with the steps. So the measure is what chance does anyway: curves of the
literal network under other seeds.
"""

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.literal import LiteralHorNet
from hornet.model.hornet import HorNet

SIDE, NUM_CLASSES, BATCH = 32, 8, 16
NUM_STEPS, WINDOW = 300, 30
SHAPE = {"width": 16, "depths": (1, 1, 1, 1), "filter_stages": (2, 3), "img_size": SIDE, "num_classes": NUM_CLASSES}


def make_random_batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Gratings under noise; a class is an orientation, the phase is free."""
    labels = torch.randint(NUM_CLASSES, (BATCH,), generator=generator)
    angle = (labels * torch.pi / NUM_CLASSES).view(-1, 1, 1)
    phase = 2 * torch.pi * torch.rand(BATCH, 1, 1, generator=generator)
    line = torch.arange(SIDE) * (2 * torch.pi / 8)
    wave = torch.sin(line.view(-1, 1) * torch.sin(angle) + line * torch.cos(angle) + phase)
    return wave.unsqueeze(1) + torch.randn(BATCH, 3, SIDE, SIDE, generator=generator), labels


def build(kind: type[nn.Module], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    # With layer scales of 1e-6 the blocks would hardly take part.
    ours = HorNet(**SHAPE, layer_scale_init=1.0)
    if kind is HorNet:
        return ours
    literal = LiteralHorNet(**SHAPE)
    literal.load_state_dict(ours.state_dict())
    return literal


def train(kind: type[nn.Module], *, seed: int, is_bf16: bool = False, lr: float = 1e-3) -> Tensor:
    """Mean losses of windows of steps; the seed draws weights and images."""
    model, generator = build(kind, seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    losses = []
    for _ in range(NUM_STEPS):
        images, labels = make_random_batch(generator)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16):
            logits = model(images)
        loss = functional.cross_entropy(logits.float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return torch.tensor(losses).view(-1, WINDOW).mean(1)


def measure_distance(one: Tensor, other: Tensor) -> float:
    """Root of the mean square over the windows."""
    return (one - other).square().mean().sqrt().item()


@pytest.fixture(autouse=True)
def _one_thread():
    """Steps this small gain nothing from more, and beside other work threads wait for each other."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.mark.slow
def test_300_steps_of_ours_in_bfloat16_stay_within_the_literal_networks_spread_over_seeds():
    literal = [train(LiteralHorNet, seed=seed) for seed in range(3)]
    assert all(curve[-1] < 0.5 * curve[0] for curve in literal), "nothing is learnt, so nothing is compared"
    spread = min(measure_distance(one, other) for one, other in itertools.combinations(literal, 2))
    assert measure_distance(train(HorNet, seed=0, is_bf16=True), literal[0]) <= spread
    # What trains differently is found.
    assert measure_distance(train(HorNet, seed=0, lr=5e-4), literal[0]) > spread

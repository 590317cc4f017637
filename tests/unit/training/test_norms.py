import math

import pytest
import torch

from hornet.training.norms import NormWatch, Slice, part_of

NAMES = ("stages.0.0.gamma1", "stages.0.0.weight", "head.weight")


def make_flat(values, gradients):
    """One flat owner, as ZeRO keeps them, with padding at its end that belongs to no parameter."""
    owner = torch.tensor([*values, 99.0])
    owner.grad = torch.tensor([*gradients, 99.0])
    return owner


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("stages.2.11.gnconv.dwconv.complex_weight", "stages.2"),
        ("downsample_layers.0.1.bias", "downsample_layers.0"),
        ("norm.weight", "norm"),
        ("head.weight", "head"),
    ],
)
def test_a_parameter_belongs_to_a_part_of_the_network(name, part):
    assert part_of(name) == part


def test_norms_are_those_of_the_slices_and_gradients_are_given_before_clipping(alone):
    owner = make_flat([1.0, -3.0, 2.0, 2.0, 5.0], [0.3, 0.0, 0.4, 0.0, 1.2])
    slices = [Slice(NAMES[0], 0, 2, owner, 0), Slice(NAMES[1], 7, 2, owner, 2), Slice(NAMES[2], 0, 1, owner, 4)]
    optimizer = torch.optim.SGD([owner], lr=1.0)
    watch = NormWatch(optimizer, slices)
    watch.arm(True)
    optimizer.step()
    found = watch.read(NAMES, grad_norm=13.0)  # ten times what was clipped to 1.3
    assert list(found) == ["stages.0", "head"]
    assert found["stages.0"] == {
        "grad_norm": pytest.approx(5.0),
        "weight_norm": pytest.approx(math.sqrt(18)),  # before the step
        "layer_scale": pytest.approx(2.0),
    }
    assert found["head"] == {
        "grad_norm": pytest.approx(12.0),
        "weight_norm": pytest.approx(5.0),
        "layer_scale": None,
    }


def test_only_the_armed_step_counts(alone):
    owner = torch.tensor([1.0, 1.0])
    optimizer = torch.optim.SGD([owner], lr=0.0)
    watch = NormWatch(optimizer, [Slice("head.weight", 0, 2, owner, 0)])
    for is_armed, gradient in ((False, 7.0), (True, 3.0), (True, 4.0)):
        watch.arm(is_armed)
        owner.grad = torch.full((2,), gradient)
        optimizer.step()
    found = watch.read(["head.weight"], grad_norm=math.sqrt(32))
    assert found["head"]["grad_norm"] == pytest.approx(math.sqrt(32))
    assert found["head"]["weight_norm"] == pytest.approx(math.sqrt(2)), "one step, not the sum of several"


def test_a_whole_parameter_may_have_any_layout(alone):
    weight = torch.randn(3, 4, 5, 5).to(memory_format=torch.channels_last)
    weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.SGD([weight], lr=0.0)
    watch = NormWatch(optimizer, [Slice("norm.weight", 0, weight.numel(), weight, 0)])
    watch.arm(True)
    optimizer.step()
    assert watch.read(["norm.weight"], grad_norm=1.0)["norm"]["weight_norm"] == pytest.approx(float(weight.norm()))

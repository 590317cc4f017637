import copy

import pytest
import timm
import torch
from torch import nn

import hornet  # noqa: F401  registers the models
from hornet.training.config import OptimizerConfig
from hornet.training.ema import attach_ema, read_ema_by_name, swap_with_ema
from hornet.training.optimizer import build_optimizer, set_lr


def test_hornet_large_decays_what_the_original_decays():
    # 195.86 M decayed parameters of the 1000-class network, 3.07 M of them global filters (counted on the original)
    with torch.device("meta"):
        model = timm.create_model("hornet_large_gf", num_classes=1000)
    optimizer = build_optimizer(model, OptimizerConfig(weight_decay=0.1))
    decayed = [group for group in optimizer.param_groups if group["weight_decay"] > 0]
    kept = [group for group in optimizer.param_groups if group["weight_decay"] == 0]
    assert sum(p.numel() for group in decayed for p in group["params"]) / 1e6 == pytest.approx(195.86, abs=0.005)
    names = [name for group in decayed for name in group["names"]]
    shapes = dict(model.named_parameters())
    filters = sum(shapes[name].numel() for name in names if name.endswith("complex_weight"))
    assert filters / 1e6 == pytest.approx(3.07, abs=0.005)
    for group in kept:
        assert all(shapes[name].ndim == 1 or name.endswith(".bias") for name in group["names"])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(shapes)


def test_layer_decay_scales_the_rate_from_the_head_down():
    model = timm.create_model("hornet_atto_gf", num_classes=3, img_size=32)
    optimizer = build_optimizer(model, OptimizerConfig(layer_decay=0.5))
    set_lr(optimizer.param_groups, 2.0)
    by_name = {name: group["lr"] for group in optimizer.param_groups for name in group["names"]}
    assert by_name["head.weight"] == 2.0
    assert by_name["stages.3.0.gamma1"] == by_name["downsample_layers.3.1.weight"] == 1.0
    assert by_name["downsample_layers.0.0.weight"] == min(by_name.values()) < by_name["stages.0.0.gamma1"]


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 2)
        self.b = nn.Parameter(torch.ones(1))

    def no_weight_decay(self):
        return {"b"}


def steps(optimizer, model, count, finite=lambda step: True):
    for step in range(count):
        if finite(step):
            (model.a(torch.full((1, 3), float(step + 1))).sum() * model.b).backward()
        set_lr(optimizer.param_groups, 0.1)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def test_ema_is_the_average_by_hand_from_the_starting_weights_and_skipped_steps_do_not_move_it():
    torch.manual_seed(0)
    model, decay = Tiny(), 0.75
    optimizer = build_optimizer(model, OptimizerConfig())
    attach_ema(optimizer, decay=decay)
    expected = copy.deepcopy(model.state_dict())
    for step in range(5):
        steps(optimizer, model, 1, finite=lambda _, step=step: step not in (0, 3))
        if step not in (0, 3):
            expected = {name: decay * expected[name] + (1 - decay) * now for name, now in model.state_dict().items()}
    averages = read_ema_by_name(optimizer.state_dict())
    assert averages.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(averages[name], expected[name])


def test_ema_of_one_parameter_is_its_closed_form():
    """After n steps: decay^n start + (1 - decay) (decay^(n-1) w_1 + ... + w_n), as timm's ModelEma has it."""
    model, decay, count = Tiny(), 0.9, 7
    optimizer = build_optimizer(model, OptimizerConfig())
    attach_ema(optimizer, decay=decay)
    history = [float(model.b.detach())]
    for _ in range(count):
        steps(optimizer, model, 1)
        history.append(float(model.b.detach()))
    by_hand = decay**count * history[0] + sum(
        (1 - decay) * decay ** (count - step) * history[step] for step in range(1, count + 1)
    )
    assert len(set(history)) == count + 1
    assert float(read_ema_by_name(optimizer.state_dict())["b"]) == pytest.approx(by_hand, rel=1e-6)


def test_an_average_that_began_otherwise_goes_on_as_it_was():
    """Runs of releases before 0.2.0 began it with the weights after their first step."""
    model, decay = Tiny(), 0.5
    earlier = build_optimizer(model, OptimizerConfig())
    steps(earlier, model, 1)
    for parameter in model.parameters():
        earlier.state[parameter]["ema"] = parameter.detach().clone()
    optimizer = build_optimizer(model, OptimizerConfig())
    attach_ema(optimizer, decay=decay)
    optimizer.load_state_dict(copy.deepcopy(earlier.state_dict()))
    first = float(model.b.detach())
    steps(optimizer, model, 1)
    by_hand = decay * first + (1 - decay) * float(model.b.detach())
    assert float(read_ema_by_name(optimizer.state_dict())["b"]) == pytest.approx(by_hand, rel=1e-6)


def test_before_the_first_step_the_average_is_the_starting_weights():
    model = Tiny()
    optimizer = build_optimizer(model, OptimizerConfig())
    attach_ema(optimizer, decay=0.5)
    before = copy.deepcopy(model.state_dict())
    steps(optimizer, model, 1, finite=lambda _: False)
    swap_with_ema(optimizer, model.parameters())
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)


def test_swapping_twice_is_identity_to_the_bit():
    model = Tiny()
    optimizer = build_optimizer(model, OptimizerConfig())
    attach_ema(optimizer, decay=0.5)
    steps(optimizer, model, 3)
    before = copy.deepcopy(model.state_dict())
    averages = copy.deepcopy(read_ema_by_name(optimizer.state_dict()))
    swap_with_ema(optimizer, model.parameters())
    assert all(torch.equal(model.state_dict()[name], averages[name]) for name in before)
    swap_with_ema(optimizer, model.parameters())
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_decay": -1}, "weight_decay: must not be negative"),
        ({"clip_grad_norm": 0.0}, "clip_grad_norm: must be above 0"),
        ({"layer_decay": 1.5}, "layer_decay: must lie between 0 and 1"),
        ({"ema_decay": 1.0}, "ema_decay: must lie between 0 and 1"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**changes)

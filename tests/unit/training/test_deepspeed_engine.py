"""DeepSpeed's engine in one process: what it does when a gradient is not finite, at every ZeRO stage."""

import dataclasses
import math
import types

import pytest
import torch

import hornet  # noqa: F401  registers the models
from hornet.errors import UserError
from hornet.training.config import OptimizerConfig
from hornet.training.engines.accelerate import AccelerateEngine
from hornet.training.engines.deepspeed_private import require_private_names
from hornet.training.engines.zero_config import ZeroConfig
from tests.unit.training.fakes import make_batch

NAMES = ["weight", "bias"]

pytestmark = pytest.mark.usefixtures("launched")
OPTIMIZER = OptimizerConfig(weight_decay=0.1, clip_grad_norm=0.5)


class Line(torch.nn.Linear):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(3, 2)

    def no_weight_decay(self):
        return set()


def compute_loss(model, batch, seed):
    """A finite loss for even seeds, NaN gradients for odd ones."""
    loss = (model(torch.full((2, 3), 0.1 * (seed + 1))) ** 2).mean()
    return loss * (math.nan if seed % 2 else 1.0)


def build(kind, *, optimizer=OPTIMIZER):
    common = {
        "optimizer": optimizer,
        "compute_loss": compute_loss,
        "derive_step_seed": lambda step, micro_step: step,
        "device": torch.device("cpu"),
    }
    if kind == "accelerate":
        return AccelerateEngine(Line(), precision="fp32", is_main=True, **common)
    from hornet.training.engines.deepspeed import DeepSpeedEngine

    zero = ZeroConfig(stage=kind, precision="fp32")
    return DeepSpeedEngine(Line(), config=zero, global_batch_size=4, micro_batch_size=2, **common)


def accept(_loss, _norm):
    return True


def run(engine, steps, *, accept=accept):
    results, weights = [], []
    for step in steps:
        results.append(engine.run_step([make_batch(), make_batch()], step=step, lr=0.1, accept=accept))
        weights.append(engine.read_parameters(NAMES))
    return results, weights


@pytest.mark.slow
@pytest.mark.parametrize("kind", [0, 1, 2, 3, "accelerate"])
def test_a_step_without_a_finite_gradient_leaves_no_trace(kind):
    results, weights = run(build(kind), [0, 1, 2])
    assert [result.was_applied for result in results] == [True, False, True]
    assert math.isfinite(results[0].grad_norm)
    for name in NAMES:
        assert torch.equal(weights[0][name], weights[1][name])
        assert not torch.equal(weights[1][name], weights[2][name])
    _, undisturbed = run(build(kind), [0, 2])
    for name in NAMES:
        torch.testing.assert_close(weights[2][name], undisturbed[1][name], rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [0, 1, 2, 3, "accelerate"])
def test_a_step_the_guard_refuses_leaves_no_trace(kind):
    """The guard sees loss and norm of every finite step; the step it refuses is as if it had never been."""
    seen = []

    def accept(loss, norm):
        seen.append((float(loss), norm))
        return len(seen) != 2

    results, weights = run(build(kind), [0, 2, 4], accept=accept)
    assert [result.was_applied for result in results] == [True, False, True]
    assert seen == [(float(result.loss), result.grad_norm) for result in results]
    assert all(math.isfinite(norm) and norm > 0 for _, norm in seen)
    _, undisturbed = run(build(kind), [0, 4])
    for name in NAMES:
        assert torch.equal(weights[0][name], weights[1][name])
        torch.testing.assert_close(weights[2][name], undisturbed[1][name], rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [0, 1, 2, 3, "accelerate"])
def test_the_average_is_the_one_by_hand_from_the_starting_weights(kind):
    """Step 0 of the even ones is the first that counts; what is dropped before or between moves nothing."""
    decay = 0.75
    engine = build(kind, optimizer=dataclasses.replace(OPTIMIZER, ema_decay=decay))
    expected = engine.read_parameters(NAMES)
    for step in (1, 0, 2, 3, 4):
        _, (weights,) = run(engine, [step])
        if step % 2 == 0:
            expected = {name: decay * expected[name] + (1 - decay) * weights[name] for name in NAMES}
        with engine.evaluation_model("ema"):
            averaged = engine.read_parameters(NAMES)
        for name in NAMES:
            torch.testing.assert_close(averaged[name], expected[name])


def list_known_keys():
    """Every top-level key that DeepSpeed's own constants and config model name; it ignores all others in silence."""
    from deepspeed.runtime import config, constants
    from deepspeed.runtime.zero import config as zero_config

    modules = (config, constants, zero_config)
    return {value for module in modules for value in vars(module).values() if isinstance(value, str)}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_deepspeed_knows_every_key_it_is_given(stage):
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    from hornet.training.engines.deepspeed import make_deepspeed_config

    zero = ZeroConfig(stage=stage, offload_optimizer=stage > 0)
    settings = make_deepspeed_config(zero, global_batch_size=4, micro_batch_size=2, clip_grad_norm=1.0)
    assert set(settings) - list_known_keys() == set()
    assert set(settings["zero_optimization"]) <= set(DeepSpeedZeroConfig.model_fields)
    assert "train_batchsize" not in list_known_keys(), "a misspelt key would be found"


@pytest.mark.parametrize("stage", [1, 3])
def test_a_deepspeed_that_renamed_what_we_use_is_refused(stage):
    engine = types.SimpleNamespace(_config={}, _copy_recovery_script=print, optimizer=types.SimpleNamespace())
    with pytest.raises(UserError, match=r"deepspeed \d\S* lacks optimizer\.\w+, .*requirements\.lock"):
        require_private_names(engine, stage=stage)


class Grouped(Line):
    """Another Line, as another release may have grouped its parameters."""

    def no_weight_decay(self):
        return {"weight"}


class Wide(torch.nn.Linear):
    def __init__(self):
        super().__init__(3, 4)


class Disk:
    def take(self, path, state):
        path.parent.mkdir(exist_ok=True)
        torch.save(state, path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [1, "accelerate"])
@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Grouped, r"step_00000002: its optimizer has 2 other parameter groups than this run's 1; go on with the"),
        (Wide, r"step_00000002: is of another network: 2 parameters differ \(bias, weight\); go on with the model"),
    ],
)
def test_a_checkpoint_of_other_parameters_or_groups_is_refused(kind, network, message, tmp_path, monkeypatch):
    engine, folder = build(kind), tmp_path / "step_00000002"
    folder.mkdir()
    run(engine, [0, 2])
    engine.save(folder, Disk())
    monkeypatch.setattr("tests.unit.training.test_deepspeed_engine.Line", network)
    with pytest.raises(UserError, match=message):
        build(kind).load(folder)

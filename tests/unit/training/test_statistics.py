"""Running statistics in both engines in one process: what counts, what is undone, what is saved."""

import math

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn
from torch.utils.checkpoint import checkpoint

from hornet.errors import UserError
from hornet.training.checkpoints.checkpoint import Checkpoint
from hornet.training.checkpoints.weights import read_weights
from hornet.training.config import OptimizerConfig
from hornet.training.engines.accelerate import AccelerateEngine
from hornet.training.engines.zero_config import ZeroConfig
from hornet.training.statistics import RunningStatistics, require_statistics

OPTIMIZER = OptimizerConfig(weight_decay=0.1, clip_grad_norm=0.5, ema_decay=0.5)
ENGINES = [0, 1, 2, 3, "accelerate"]
COUNTED = "norm.num_batches_tracked"


class Net(nn.Module):
    """A convolution and its BatchNorm, a constant that is saved, and an index that the constructor makes."""

    def __init__(self, *, channels=3, recomputes=False):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(2, channels, 3)
        self.norm = nn.BatchNorm2d(channels)
        self.recomputes = recomputes
        self.register_buffer("scale", torch.tensor([0.1, 3.0]))
        self.register_buffer("index", torch.arange(channels).flip(0), persistent=False)

    def forward(self, x):
        body = lambda x: self.norm(self.convolution(x))  # noqa: E731
        x = checkpoint(body, x, use_reentrant=False) if self.recomputes else body(x)
        return x.mean((2, 3))[:, self.index] * self.scale[0]


BUFFERS = ["norm.running_mean", "norm.running_var", COUNTED, "scale"]


def make_images(seed):
    return torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(seed)) + seed


def compute_loss(model, batch, _seed):
    """NaN gradients for the batch -1."""
    loss = (model(make_images(abs(batch))).float() - torch.arange(3.0)).square().mean()
    return loss * (math.nan if batch < 0 else 1.0)


def build(kind, *, precision="fp32", **network):
    common = {
        "optimizer": OPTIMIZER,
        "compute_loss": compute_loss,
        "derive_step_seed": lambda step, micro_step: step,
        "device": torch.device("cpu"),
    }
    if kind == "accelerate":
        return AccelerateEngine(Net(**network), precision=precision, is_main=True, **common)
    from hornet.training.engines.deepspeed import DeepSpeedEngine

    zero = ZeroConfig(stage=kind, precision=precision)
    return DeepSpeedEngine(Net(**network), config=zero, global_batch_size=8, micro_batch_size=4, **common)


def run(engine, steps, *, accept=lambda _loss, _norm: True):
    """Train one step for each pair of batches; return what the engine then holds, by name."""
    for step, batches in enumerate(steps):
        engine.run_step(batches, step=step, lr=0.1, accept=accept)
    return read(engine)


def read(engine):
    return engine.read_parameters([name for name, _ in Net().named_parameters()] + BUFFERS)


@pytest.fixture
def other_precision():
    """Accelerate keeps the first one it meets."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


class Disk:
    """Writes at once what an engine gives it."""

    def take(self, path, state):
        path.parent.mkdir(exist_ok=True)
        torch.save(state, path)


def save(engine, folder):
    folder.mkdir()
    engine.save(folder, Disk())
    return folder


def require_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def average_by_hand(batches):
    """BatchNorm's definition: 0.9 of the old, 0.1 of the batch's mean and unbiased variance; the weights stay."""
    network, mean, variance = Net(), torch.zeros(3), torch.ones(3)
    for batch in batches:
        values = network.convolution(make_images(batch)).detach().transpose(0, 1).flatten(1)
        mean, variance = 0.9 * mean + 0.1 * values.mean(1), 0.9 * variance + 0.1 * values.var(1)
    return mean, variance


@pytest.mark.slow
@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize("kind", ENGINES)
def test_the_statistics_are_those_of_every_micro_batch_once(kind, tmp_path):
    engine = build(kind)
    found = run(engine, [(1, 2)])
    mean, variance = average_by_hand([1, 2])
    torch.testing.assert_close(found["norm.running_mean"], mean)
    torch.testing.assert_close(found["norm.running_var"], variance)
    assert found[COUNTED] == 2
    assert torch.equal(found["scale"], Net().scale)


@pytest.mark.slow
@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize("kind", ENGINES)
def test_activations_computed_again_are_not_counted_again(kind):
    steps = [(1, 2), (3, 4), (5, 6)]
    expected = run(build(kind), steps)
    require_equal(run(build(kind, recomputes=True), steps), expected)
    assert expected[COUNTED] == 6


@pytest.mark.slow
@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize("kind", ENGINES)
def test_a_dropped_step_leaves_no_trace_in_the_statistics(kind):
    expected = run(build(kind), [(1, 2)])
    engine = build(kind)
    run(engine, [(1, 2)])
    require_equal(run(engine, [(3, -4)]), expected)  # its gradient is not finite
    require_equal(run(engine, [(3, 4)], accept=lambda _loss, _norm: False), expected)
    assert run(engine, [(3, 4)])[COUNTED] == 4


@pytest.mark.slow
@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize("kind", ENGINES)
def test_under_autocast_all_stays_fp32(kind, other_precision):
    found = run(build(kind, precision="bf16"), [(1, 2)])
    assert {name: tensor.dtype for name, tensor in found.items() if name != COUNTED} == {
        name: torch.float32 for name in found if name != COUNTED
    }
    assert found[COUNTED].dtype == torch.int64
    mean, _ = average_by_hand([1, 2])
    torch.testing.assert_close(found["norm.running_mean"], mean, rtol=2e-2, atol=2e-2)


@pytest.mark.slow
@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize("kind", ENGINES)
def test_saved_restored_and_read_to_the_bit(kind, tmp_path):
    engine = build(kind)
    expected = run(engine, [(1, 2), (3, 4)])
    folder = save(engine, tmp_path / "step_00000002")
    other = build(kind)
    other.load(folder)
    require_equal(read(other), expected)
    more = [(5, 6), (7, 8)]
    require_equal(run(other, more), run(engine, more))

    kind_of_engine = "accelerate" if kind == "accelerate" else "deepspeed"
    saved = Checkpoint(folder=folder, step=2, identity={"engine": kind_of_engine}, description={}, state={})
    require_equal(read_weights(saved, weights="raw"), expected)
    averaged = read_weights(saved, weights="ema")
    Net().load_state_dict(averaged)
    require_equal({name: averaged[name] for name in BUFFERS}, {name: expected[name] for name in BUFFERS})
    assert not torch.equal(averaged["convolution.weight"], expected["convolution.weight"])


@pytest.mark.slow
@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize("kind", ENGINES)
def test_averaged_weights_are_evaluated_with_the_files_statistics(kind, tmp_path):
    """What evaluation sees within a run is what a reader of its checkpoint loads; and evaluating changes nothing."""
    engine = build(kind)
    expected = run(engine, [(1, 2), (3, 4)])
    folder = save(engine, tmp_path / "step_00000002")
    engine_name = "accelerate" if kind == "accelerate" else "deepspeed"
    saved = Checkpoint(folder=folder, step=2, identity={"engine": engine_name}, description={}, state={})
    network = Net().eval()
    network.load_state_dict(read_weights(saved, weights="ema"))
    with engine.evaluation_model("ema") as model:
        torch.testing.assert_close(model(make_images(9)), network(make_images(9)), rtol=0, atol=0)
    require_equal(read(engine), expected)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(2, 3, 3)
        self.norm = nn.GroupNorm(1, 3)

    def forward(self, x):
        return self.norm(self.convolution(x)).mean((2, 3))


@pytest.mark.slow
@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize("kind", [1, "accelerate"])
def test_buffers_of_another_network_are_named(kind, tmp_path, monkeypatch):
    folder = save(build(kind), tmp_path / "step_00000000")

    def change(self, **_):
        super(Net, self).__init__()
        original(self)
        del self.scale
        self.register_buffer("shift", torch.zeros(2))

    original = Net.__init__
    monkeypatch.setattr(Net, "__init__", change)
    engine = build(kind)
    with pytest.raises(UserError, match=r"step_00000000: is of another network: 2 buffers differ \(scale, shift\); go"):
        engine.load(folder)


@pytest.mark.usefixtures("alone")
def test_a_network_without_statistics_sends_and_copies_nothing(monkeypatch):
    """One with buffers that are not saved, too."""
    network = Plain()
    network.register_buffer("index", torch.arange(3.0), persistent=False)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda _: pytest.fail("sent something"))
    statistics = RunningStatistics(network)
    earlier = statistics.copy()
    assert earlier == []
    statistics.end_step(was_applied=True, earlier=earlier)


def test_the_mean_over_ranks_is_one_message(monkeypatch):
    """Of values that are equal on all ranks it is exact on any number of ranks: a constant stays to the bit."""
    sent, num_ranks = [], 7
    network = Net()
    network.norm.running_mean.copy_(torch.tensor([0.1, 0.2, 0.3]))
    statistics = RunningStatistics(network)

    def add_up(flat):
        sent.append(flat.numel())
        flat *= num_ranks
        flat[flat == 1.0 * num_ranks] += 7.0  # the others' variances are larger by 7 together

    monkeypatch.setattr("torch.distributed.get_world_size", lambda: num_ranks)
    monkeypatch.setattr("torch.distributed.all_reduce", add_up)
    statistics.end_step(was_applied=True, earlier=statistics.copy())
    assert sent == [3 + 3 + 2], "no integers, nothing that is not saved"
    assert torch.equal(network.norm.running_mean, torch.tensor([0.1, 0.2, 0.3]))
    assert torch.equal(network.norm.running_var, torch.full((3,), 2.0))
    assert torch.equal(network.scale, Net().scale)


@pytest.mark.parametrize("network", [Net(), nn.Sequential(nn.Linear(2, 3), nn.SyncBatchNorm(3))])
def test_statistics_of_one_image_are_refused(network):
    with pytest.raises(
        UserError, match=r"^micro_batch_size: .* takes running statistics over each micro batch \(.+\), "
    ):
        require_statistics(network, 1)
    require_statistics(network, 2)
    require_statistics(Plain(), 1)

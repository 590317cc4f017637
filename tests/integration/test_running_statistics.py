"""Running statistics on two ranks and others, under every ZeRO stage and Accelerate, against their definition."""

import pytest
import torch

from hornet.training.checkpoints.checkpoint import Checkpoint
from hornet.training.checkpoints.weights import read_weights
from tests.integration import running_statistics
from tests.integration.conftest import run_python
from tests.integration.running_statistics import DROPPED_STEP, KINDS, LAST_STEP, SAVED_STEP, Net, make_images

pytestmark = pytest.mark.slow
PHASES = ("write:2", "read:2", "read:3")
NAMES = ["norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """The folder of checkpoints that `running_statistics.py` wrote and read."""
    folder = tmp_path_factory.mktemp("worlds")
    run_python("-m", "tests.integration.running_statistics", str(folder), *PHASES)
    return folder


def load_truth(worlds, kind):
    return torch.load(worlds / f"{kind}_n2" / "truth.pt")


def load_rows(worlds, *, num_ranks):
    return torch.load(worlds / f"read_n{num_ranks}.pt")


def is_equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_agree_to_the_bit_after_each_step(worlds, kind):
    history = load_truth(worlds, kind)["history"]
    assert len(history) == LAST_STEP
    for ranks in history:
        assert len(ranks) == 2
        assert is_equal(*ranks)
    counts = [int(ranks[0]["norm.num_batches_tracked"]) for ranks in history]
    assert counts == [2, 2, 4, 6, 8], "two micro batches a step, but of the one that was dropped"
    assert is_equal(history[DROPPED_STEP][0], history[DROPPED_STEP - 1][0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_step_is_the_mean_of_what_each_rank_counts(worlds, kind):
    """BatchNorm's definition on each rank's images, one micro batch after the other; the weights are the first ones."""
    network, means, variances = Net(), [], []
    for rank in range(2):
        mean, variance = torch.zeros(3), torch.ones(3)
        for micro_step in range(2):
            images = make_images(0, micro_step, rank=rank, num_ranks=2)
            values = network.convolution(images).detach().transpose(0, 1).flatten(1)
            mean, variance = 0.9 * mean + 0.1 * values.mean(1), 0.9 * variance + 0.1 * values.var(1)
        means.append(mean)
        variances.append(variance)
    assert not torch.allclose(means[0], means[1], rtol=1e-2), "each rank sees other images"
    found = load_truth(worlds, kind)["history"][0][0]
    torch.testing.assert_close(found["norm.running_mean"], (means[0] + means[1]) / 2)
    torch.testing.assert_close(found["norm.running_var"], (variances[0] + variances[1]) / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_the_undisturbed_one(worlds, kind):
    (row,) = [row for row in load_rows(worlds, num_ranks=2) if row["written"] == row["read"] == f"{kind}_n2"]
    truth = load_truth(worlds, kind)
    assert is_equal(row["end"], truth["end"])
    for resumed, undisturbed in zip(row["history"], truth["history"][SAVED_STEP:], strict=True):
        assert all(is_equal(*pair) for pair in zip(resumed, undisturbed, strict=True))


def test_other_stages_and_numbers_of_ranks_go_on_from_the_same_state(worlds):
    rows = [row for num_ranks in (2, 3) for row in load_rows(worlds, num_ranks=num_ranks)]
    assert len({(row["written"], row["read"]) for row in rows}) == len(rows) == 2 * (4 * 2 + 1)
    for row in rows:
        saved = load_truth(worlds, row["written"].removesuffix("_n2"))["saved"]
        assert all(is_equal(rank, saved) for rank in row["loaded"]), row["written"] + " " + row["read"]
        for ranks in row["history"]:
            assert all(is_equal(rank, ranks[0]) for rank in ranks), row["read"]


@pytest.mark.parametrize("kind", KINDS)
def test_files_read_without_ranks_fit_the_network(worlds, kind):
    saved = load_truth(worlds, kind)["saved"]
    checkpoint = Checkpoint(
        folder=worlds / f"{kind}_n2" / f"step_{SAVED_STEP:08d}",
        step=SAVED_STEP,
        identity={"engine": "accelerate" if kind == "accelerate" else "deepspeed"},
        description={},
        state={},
    )
    assert is_equal(read_weights(checkpoint, weights="raw"), saved)
    averaged = read_weights(checkpoint, weights="ema")
    Net().load_state_dict(averaged)  # strict: nothing is missing, nothing beside
    assert is_equal({name: averaged[name] for name in NAMES}, {name: saved[name] for name in NAMES})
    assert sorted(running_statistics.list_buffers(Net())) == sorted(NAMES)

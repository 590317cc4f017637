import math

import pytest
import torch

from hornet.errors import UserError
from hornet.training.interruption import REASONS, Interruption
from hornet.training.loop import Request
from hornet.training.step_clock import StepClock
from hornet.training.step_message import Feed, StepExchange
from hornet.world import World
from tests.unit.training.fakes import make_bad_sample, make_batch

TWO = World(rank=0, num_ranks=2, local_rank=0, num_local_ranks=2, master_address="", master_port=0)


def make_feed(batches, *, num_micro_steps=2):
    return Feed(iter(batches), num_micro_steps=num_micro_steps, clock=StepClock(torch.device("cpu")))


def fail_after(*batches, error):
    yield from batches
    raise error


class OtherRank:
    """What a second rank says: added to the message."""

    def __init__(self, monkeypatch, **saying):
        self.saying = {"loss": 0.0, "norm": 0.0, "num_bad": 0, "without_data": 0, "reason": ""} | saying
        monkeypatch.setattr("hornet.training.step_message.sum_over_ranks", self.add)

    def add(self, mine):
        heard = [float(self.saying["reason"] == reason) for reason in REASONS]
        numbers = [self.saying[key] for key in ("loss", "norm", "num_bad", "without_data")]
        return mine + torch.tensor([*numbers, *heard], dtype=torch.float64)


def make_exchange(tmp_path, feed, *, signal=None):
    interruption = Interruption(tmp_path, world=TWO, stop_at=None, hear=lambda: signal)
    return StepExchange(feed, interruption, get_save_seconds=lambda: 0.0, world=TWO), interruption


def test_a_feed_gives_the_batches_of_each_step_in_order(alone):
    batches = [make_batch(keys=(number,)) for number in range(6)]
    given = [[int(batch.key_hashes[0]) for batch in step] for step in make_feed(batches)]
    assert given == [[0, 1], [2, 3], [4, 5]]


def test_batches_are_fetched_a_step_ahead_and_only_once(alone, tmp_path, monkeypatch):
    OtherRank(monkeypatch)
    taken = []
    feed = make_feed(taken.append(number) or make_batch(keys=(number,)) for number in range(6))
    exchange, _ = make_exchange(tmp_path, feed)
    step = next(feed)
    assert taken == [0, 1]
    exchange(1.0, 1.0, step)
    assert taken == [0, 1, 2, 3]
    assert [int(batch.key_hashes[0]) for batch in next(feed)] == [2, 3]
    assert taken == [0, 1, 2, 3]


def test_an_error_of_this_ranks_data_ends_it_before_the_step_it_is_for(alone, tmp_path, monkeypatch):
    OtherRank(monkeypatch)
    feed = make_feed(fail_after(make_batch(), make_batch(), error=UserError("shard 3 is gone")))
    exchange, _ = make_exchange(tmp_path, feed)
    exchange(1.0, 1.0, next(feed))  # the step before is computed and counted
    with pytest.raises(UserError, match="shard 3 is gone"):
        next(feed)


def test_where_another_rank_lacks_its_batches_the_ranks_ask_each_other(alone, tmp_path, monkeypatch):
    OtherRank(monkeypatch, without_data=1)
    asked = []
    monkeypatch.setattr("hornet.training.step_message.raise_together", asked.append)
    feed = make_feed(make_batch() for _ in range(6))
    exchange, _ = make_exchange(tmp_path, feed)
    step = next(feed)
    assert asked == [None], "before the first step"
    exchange(1.0, 1.0, step)
    next(feed)
    assert asked == [None, None]


def test_ranks_know_the_mean_loss_and_all_bad_samples(alone, tmp_path, monkeypatch):
    OtherRank(monkeypatch, loss=4.0, norm=3.0, num_bad=2)
    feed = make_feed(make_batch() for _ in range(6))
    exchange, _ = make_exchange(tmp_path, feed)
    message = exchange(2.0, 3.0, [make_batch(bad=[make_bad_sample()]), make_batch()])
    assert (message.mean_loss, message.grad_norm, message.num_bad_samples) == (3.0, 3.0, 3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_on_another_rank_is_not_finite_here(alone, tmp_path, monkeypatch, bad):
    OtherRank(monkeypatch, loss=bad)
    exchange, interruption = make_exchange(tmp_path, make_feed(make_batch() for _ in range(6)))
    assert not math.isfinite(exchange(2.0, 1.0, []).mean_loss)
    assert interruption.request is Request.GO_ON, "what else travels with it stays readable"


@pytest.mark.parametrize(
    ("mine", "theirs", "agreed", "expected"),
    [
        (None, "", "", Request.GO_ON),
        (None, "STOP file", "STOP file", Request.STOP),
        ("SIGTERM", "STOP file", "SIGTERM", Request.STOP),
        ("SIGINT", "SIGTERM", "SIGTERM", Request.STOP),
        (None, "SAVE file", "SAVE file", Request.SAVE),
    ],
)
def test_the_strongest_reason_of_any_rank_counts_for_all(alone, tmp_path, monkeypatch, mine, theirs, agreed, expected):
    OtherRank(monkeypatch, reason=theirs)
    exchange, interruption = make_exchange(tmp_path, make_feed(make_batch() for _ in range(6)), signal=mine)
    exchange(1.0, 1.0, [])
    assert (interruption.reason, interruption.request) == (agreed, expected)

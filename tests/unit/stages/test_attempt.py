"""What ranks tell each other before a run begins; with two ranks: tests/integration/test_failures.py."""

from dataclasses import dataclass, field, replace

import pytest

from hornet.config import Settings, flatten_values, list_settings, resumable, to_values
from hornet.errors import UserError
from hornet.stages import attempt
from hornet.world import place_rank


@dataclass(frozen=True, kw_only=True)
class Part(Settings):
    rate: float = 0.1
    folder: str = resumable("a")


@dataclass(frozen=True, kw_only=True)
class Cadence(Settings):
    save_every_steps: int = resumable(100)


@dataclass(frozen=True, kw_only=True)
class Whole(Settings):
    seed: int = 0
    micro_batch_size: int = resumable(4)
    cadence: Cadence = field(default_factory=Cadence)
    part: Part | None = field(default_factory=Part)


MINE = Whole()
FOUND = {"stream": "ab", "evaluated set": None}


@pytest.fixture
def compare(alone, monkeypatch):
    """Compares what this rank has with what rank 0 is made to have."""

    def compare(of_first, found=FOUND):
        settings = dict(flatten_values(to_values(of_first), settings=list_settings(Whole)))
        monkeypatch.setattr(attempt, "tell_all", lambda _: ("node1", settings, found))
        attempt.require_alike(MINE, FOUND, world=place_rank(3, 8))

    return compare


def test_ranks_with_the_same_settings_and_data_are_alike(compare):
    compare(MINE)


def test_what_may_change_on_a_resume_may_differ(compare):
    compare(replace(MINE, part=Part(folder="b")))


@pytest.mark.parametrize(
    ("of_first", "found", "told"),
    [
        (replace(MINE, seed=1), FOUND, "seed: 1 -> 0"),
        (replace(MINE, part=Part(rate=0.2)), FOUND, "part.rate: 0.2 -> 0.1"),
        (replace(MINE, part=None), FOUND, "part.rate: 'absent' -> 0.1"),
        (replace(MINE, micro_batch_size=8), FOUND, "micro_batch_size: 8 -> 4"),
        (replace(MINE, cadence=Cadence(save_every_steps=50)), FOUND, "cadence.save_every_steps: 50 -> 100"),
        (MINE, {**FOUND, "stream": "cd"}, "stream: 'cd' -> 'ab'"),
        (MINE, {**FOUND, "evaluated set": "cd"}, "evaluated set: 'cd' -> None"),
    ],
)
def test_a_rank_that_would_train_something_else_says_what(compare, of_first, found, told):
    with pytest.raises(UserError) as error:
        compare(of_first, found)
    first, *middle, last = str(error.value).splitlines()
    assert first.startswith("rank 3 on ")
    assert first.endswith(" would not train what rank 0 on node1 does:")
    assert f"  {told}" in middle
    assert last == "give all ranks the same command, and copies of the same set"

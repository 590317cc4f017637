from datetime import UTC, datetime

import pytest

from hornet.training.interruption import REASONS, Interruption, explain_stop
from hornet.training.loop import Wish
from hornet.world import ALONE, World


class Outside:
    """A clock, and a signal."""

    def __init__(self):
        self.time, self.signal = 1000.0, None


@pytest.fixture
def outside():
    return Outside()


def watch(folder, outside, *, world=ALONE, stop_at=None):
    return Interruption(
        folder,
        world=world,
        stop_at=None if stop_at is None else datetime.fromtimestamp(stop_at, UTC),
        hear=lambda: outside.signal,
        now=lambda: outside.time,
    )


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM", "SIGINT"])
def test_a_signal_stops(tmp_path, alone, outside, name):
    interruption = watch(tmp_path, outside)
    assert interruption.look(save_seconds=0) is Wish.GO_ON
    outside.signal = name
    assert (interruption.look(save_seconds=0), interruption.reason) == (Wish.STOP, name)


def test_every_rank_obeys_the_strongest_reason_of_any(tmp_path, outside, monkeypatch):
    others = []
    monkeypatch.setattr("hornet.training.interruption.max_over_ranks", lambda mine: max([mine, *others]))
    (tmp_path / "STOP").touch()
    rank_1 = World(rank=1, num_ranks=2, local_rank=1, num_local_ranks=2, master_address="", master_port=0)
    interruption = watch(tmp_path, outside, world=rank_1, stop_at=1)
    assert interruption.look(save_seconds=0) is Wish.GO_ON, "files and the clock are rank 0's to look at"
    others.append(REASONS.index("STOP file"))
    assert (interruption.look(save_seconds=0), interruption.reason) == (Wish.STOP, "STOP file")
    outside.signal = "SIGTERM"
    assert (interruption.look(save_seconds=0), interruption.reason) == (Wish.STOP, "SIGTERM")


def test_files_are_looked_for_once_a_second_save_is_obeyed_once_and_stop_stays(tmp_path, alone, outside):
    interruption = watch(tmp_path, outside)
    assert interruption.look(save_seconds=0) is Wish.GO_ON
    (tmp_path / "SAVE").touch()
    assert interruption.look(save_seconds=0) is Wish.GO_ON, "within the same second"
    outside.time += 1
    assert interruption.look(save_seconds=0) is Wish.SAVE
    assert not (tmp_path / "SAVE").exists()
    outside.time += 1
    assert interruption.look(save_seconds=0) is Wish.GO_ON
    (tmp_path / "STOP").touch()
    outside.time += 1
    assert (interruption.look(save_seconds=0), interruption.reason) == (Wish.STOP, "STOP file")
    assert (tmp_path / "STOP").exists()
    assert watch(tmp_path, outside).look(save_seconds=0) is Wish.STOP, "the next start as well"


def test_a_save_file_that_cannot_be_removed_is_obeyed_once(tmp_path, alone, outside, capsys):
    (tmp_path / "SAVE").mkdir()  # unlink refuses a folder, to root as well
    interruption = watch(tmp_path, outside)
    assert interruption.look(save_seconds=0) is Wish.SAVE
    assert "SAVE: cannot be removed" in capsys.readouterr().out
    outside.time += 1
    assert interruption.look(save_seconds=0) is Wish.GO_ON


def test_it_stops_early_enough_for_one_more_step_and_a_save(tmp_path, alone, outside):
    interruption = watch(tmp_path, outside, stop_at=1100)
    assert interruption.look(save_seconds=0) is Wish.GO_ON
    for time in (1030, 1040, 1059):  # the longest step took 30 s
        outside.time = time
        assert interruption.look(save_seconds=10) is Wish.GO_ON, time
    outside.time = 1060
    assert (interruption.look(save_seconds=10), interruption.reason) == (Wish.STOP, "run.stop_at")


def test_a_deadline_that_has_passed_stops_at_once(tmp_path, alone, outside):
    assert watch(tmp_path, outside, stop_at=999).look(save_seconds=0) is Wish.STOP


def test_a_stopped_run_says_how_to_go_on(tmp_path):
    assert explain_stop("SIGUSR1", step=7, run=tmp_path).startswith("stopped after step 7 (SIGUSR1); the same command")
    assert f"remove {tmp_path}/STOP" in explain_stop("STOP file", step=7, run=tmp_path)
    assert "a later run.stop_at" in explain_stop("run.stop_at", step=7, run=tmp_path)

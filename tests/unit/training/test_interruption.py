from datetime import UTC, datetime

import pytest

from hornet.training.interruption import Interruption, explain_stop
from hornet.training.loop import Request
from hornet.world import ALONE, World


class Outside:
    """A clock, and a signal."""

    def __init__(self):
        self.time, self.signal = 1000.0, None


@pytest.fixture
def outside():
    return Outside()


def look(interruption, *, save_seconds=0):
    """As a rank that is alone: what it sees is what all agree on."""
    interruption.agree(interruption.look(save_seconds=save_seconds))
    return interruption.request


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
    assert look(interruption) is Request.GO_ON
    outside.signal = name
    assert (look(interruption), interruption.reason) == (Request.STOP, name)


def test_files_and_the_clock_are_rank_0s_to_look_at(tmp_path, outside):
    (tmp_path / "STOP").touch()
    rank_1 = World(rank=1, num_ranks=2, local_rank=1, num_local_ranks=2, master_address="", master_port=0)
    interruption = watch(tmp_path, outside, world=rank_1, stop_at=1)
    assert look(interruption) is Request.GO_ON
    outside.signal = "SIGTERM"
    assert (look(interruption), interruption.reason) == (Request.STOP, "SIGTERM")


def test_what_a_step_does_after_the_look_counts_against_the_deadline(tmp_path, alone, outside):
    """Looks come at 1000 and 1010; the step's end, 4 s after each, with the save of 5 s, must not miss 1030."""
    interruption = watch(tmp_path, outside, stop_at=1030)
    for time in (1000, 1010):
        outside.time = time
        assert look(interruption, save_seconds=5) is Request.GO_ON, time
        outside.time = time + 4
        interruption.end_step()
    outside.time = 1011
    assert look(interruption, save_seconds=5) is Request.STOP, "one more look at 1021, its end at 1025, saved at 1030"


def test_files_are_looked_for_once_a_second_save_is_obeyed_once_and_stop_stays(tmp_path, alone, outside):
    interruption = watch(tmp_path, outside)
    assert look(interruption) is Request.GO_ON
    (tmp_path / "SAVE").touch()
    assert look(interruption) is Request.GO_ON, "within the same second"
    outside.time += 1
    assert look(interruption) is Request.SAVE
    assert not (tmp_path / "SAVE").exists()
    outside.time += 1
    assert look(interruption) is Request.GO_ON
    (tmp_path / "STOP").touch()
    outside.time += 1
    assert (look(interruption), interruption.reason) == (Request.STOP, "STOP file")
    assert (tmp_path / "STOP").exists()
    assert look(watch(tmp_path, outside)) is Request.STOP, "the next start as well"


def test_a_save_file_that_cannot_be_removed_is_obeyed_once(tmp_path, alone, outside, capsys):
    (tmp_path / "SAVE").mkdir()  # unlink refuses a folder, to root as well
    interruption = watch(tmp_path, outside)
    assert look(interruption) is Request.SAVE
    assert "SAVE: cannot be removed" in capsys.readouterr().out
    outside.time += 1
    assert look(interruption) is Request.GO_ON


def test_it_stops_early_enough_for_one_more_step_and_a_save(tmp_path, alone, outside):
    interruption = watch(tmp_path, outside, stop_at=1100)
    assert look(interruption) is Request.GO_ON
    for time in (1030, 1040, 1059):  # the longest step took 30 s
        outside.time = time
        assert look(interruption, save_seconds=10) is Request.GO_ON, time
    outside.time = 1060
    assert (look(interruption, save_seconds=10), interruption.reason) == (Request.STOP, "run.stop_at")


def test_a_deadline_that_has_passed_stops_at_once(tmp_path, alone, outside):
    assert look(watch(tmp_path, outside, stop_at=999)) is Request.STOP


def test_a_stopped_run_says_how_to_go_on(tmp_path):
    assert explain_stop("SIGUSR1", step=7, run=tmp_path).startswith("stopped after step 7 (SIGUSR1); the same command")
    assert f"remove {tmp_path}/STOP" in explain_stop("STOP file", step=7, run=tmp_path)
    assert "a later run.stop_at" in explain_stop("run.stop_at", step=7, run=tmp_path)

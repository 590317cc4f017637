"""Ranks that wait for each other, as threads of this process."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

import hornet.training.rendezvous as rendezvous
from hornet.errors import UserError
from hornet.training.rendezvous import meet
from hornet.world import ALONE


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def pair(port):
    """Two ranks of one machine."""
    first = replace(ALONE, num_ranks=2, num_local_ranks=2, master_port=port)
    return first, replace(first, rank=1, local_rank=1)


@pytest.fixture
def talkative(monkeypatch):
    monkeypatch.setattr(rendezvous, "SILENT_SECONDS", 0.0)


def start(pool, world, purpose="run a", **patience):
    return pool.submit(meet, world, purpose=purpose, **patience)


def test_ranks_meet_in_any_order_and_share_a_store(pair):
    with ThreadPoolExecutor() as pool:
        meetings = [start(pool, world) for world in reversed(pair)]
        second, first = (meeting.result(60) for meeting in meetings)
        first.set("key", "value")
        assert second.get("key") == b"value"


def test_rank_0_says_who_is_missing_and_gives_up(pair, talkative, capfd):
    world = replace(pair[0], num_ranks=3)
    with pytest.raises(
        UserError, match=r"rank 0 waited for 1 s at the start, and gives up: 1 of 3 ranks have come to "
    ):
        meet(world, purpose="run a", patience_seconds=0.6)
    said = capfd.readouterr().err
    place = f"127.0.0.1:{world.master_port}"
    assert f"1 of 3 ranks have come to {place}, missing: rank 1, 2; it gives up after 1 s, and ends at once on" in said


def test_a_rank_says_that_rank_0_does_not_answer(pair, talkative, capfd):
    with pytest.raises(
        UserError, match=r"rank 0 does not answer at 127.0.0.1:\d+ \(.*refused.*with the same MASTER_ADDR"
    ):
        meet(pair[1], purpose="run a", patience_seconds=0.1)
    assert "rank 1 has waited for 0 s: rank 0 does not answer at 127.0.0.1:" in capfd.readouterr().err


def test_a_host_that_is_unknown_is_named(pair):
    with pytest.raises(UserError, match=r"rank 0 does not answer at no\.such\.invalid:\d+ "):
        meet(replace(pair[1], master_address="no.such.invalid"), purpose="run a", patience_seconds=0.1)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGUSR1", 138)])
def test_a_signal_ends_the_wait_with_the_shells_code(pair, monkeypatch, capfd, name, code):
    monkeypatch.setattr(rendezvous, "heard_signal", lambda: name)
    with pytest.raises(SystemExit) as ended:
        meet(pair[0], purpose="run a")
    assert ended.value.code == code
    assert f"rank 0: ended by {name} after 0 s at the start: 1 of 2 ranks have come" in capfd.readouterr().err


def test_a_port_in_use_is_named_with_the_remedy(pair):
    with socket.socket() as other:
        other.bind(("0.0.0.0", pair[0].master_port))
        other.listen()
        with pytest.raises(UserError, match=rf"port {pair[0].master_port} of .* is in use, .*--master_port"):
            meet(pair[0], purpose="run a")


def test_a_rank_of_another_run_is_not_taken_in_and_does_no_harm(pair):
    with ThreadPoolExecutor() as pool:
        waiting = start(pool, pair[0])
        with pytest.raises(UserError, match=r"belongs to 2 ranks of run b, but met 2 ranks of run a at .*MASTER_PORT"):
            meet(pair[1], purpose="run b")
        with pytest.raises(UserError, match=r"belongs to 3 ranks of run a, but met 2 ranks of run a at "):
            meet(replace(pair[1], num_ranks=3), purpose="run a")
        joined = start(pool, pair[1])
        stores = waiting.result(60), joined.result(60)
        with pytest.raises(UserError, match=r"rank 1 has come to .* already: two processes are told to be rank 1"):
            meet(pair[1], purpose="run a")
        assert len(stores) == 2


def test_a_rank_that_leaves_takes_the_others_along(pair, monkeypatch):
    store = rendezvous.TCPStore("127.0.0.1", pair[0].master_port, is_master=True, wait_for_workers=False)

    def hear_once_both_have_come():
        is_rank_1 = threading.current_thread() is threading.main_thread()
        return "SIGTERM" if is_rank_1 and store.add("hornet/0/num_come", 0) == 2 else None

    monkeypatch.setattr(rendezvous, "heard_signal", hear_once_both_have_come)
    first, second = (replace(world, num_ranks=3, has_store=True) for world in pair)
    with ThreadPoolExecutor() as pool:
        patient = start(pool, first)
        with pytest.raises(SystemExit):
            meet(second, purpose="run a")
        with pytest.raises(UserError, match="rank 1 left before all ranks had come; its own output says why"):
            patient.result(60)


def test_where_the_launcher_listens_rank_0_does_not_and_a_restart_begins_afresh(pair):
    store = rendezvous.TCPStore("127.0.0.1", pair[0].master_port, is_master=True, wait_for_workers=False)
    with ThreadPoolExecutor() as pool:
        for num_restarts in (0, 1):
            worlds = [replace(world, has_store=True, num_restarts=num_restarts) for world in pair]
            for meeting in [start(pool, world) for world in worlds]:
                meeting.result(60)
    assert store.get("hornet/0/num_come") == store.get("hornet/1/num_come") == b"2"

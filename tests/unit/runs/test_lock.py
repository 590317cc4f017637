import json
import os
import platform
import subprocess
import sys
import threading
import time

import pytest

from hornet.errors import UserError
from hornet.runs.lock import FILE, Lock

QUICK = {"beat_seconds": 0.05, "silence_seconds": 0.4}


def leave_owner(folder, **owner):
    (folder / FILE).write_text(json.dumps({"token": "theirs", "host": "elsewhere", "pid": 1, **owner}))


def test_nobody_was_there_and_nothing_stays(tmp_path):
    folder = tmp_path / "runs/a"
    with Lock(folder, **QUICK) as lock:
        owner = json.loads((folder / FILE).read_text())
        assert (owner["host"], owner["pid"]) == (platform.node(), os.getpid())
        assert lock.is_held()
        lock.require()
    assert list(folder.iterdir()) == []


def test_a_living_owner_is_named_and_left_alone(tmp_path):
    with Lock(tmp_path, **QUICK) as first:
        message = rf"process {os.getpid()} on {platform.node()} is training this run; stop it first \(touch .*STOP\)"
        with pytest.raises(UserError, match=message), Lock(tmp_path, **QUICK):
            pytest.fail("two owners")
        assert first.is_held()


def test_of_two_that_find_nobody_at_the_same_moment_one_stays(tmp_path, monkeypatch):
    """As two jobs that were submitted twice by mistake and begin when a node is free."""
    meeting, find_nobody = threading.Barrier(2), Lock._wait_for_silence

    def find_nobody_together(lock):
        find_nobody(lock)
        meeting.wait()

    monkeypatch.setattr(Lock, "_wait_for_silence", find_nobody_together)
    outcomes = []

    def begin():
        try:
            with Lock(tmp_path, beat_seconds=4, silence_seconds=100):
                outcomes.append("at work")
                ended.wait()
        except UserError as error:
            outcomes.append(str(error))
            ended.set()

    ended = threading.Event()
    threads = [threading.Thread(target=begin) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted("is training this run" in outcome for outcome in outcomes) == [False, True]
    assert "at work" in outcomes


def test_a_killed_owner_on_this_host_is_followed_at_once(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    leave_owner(tmp_path, host=platform.node(), pid=process.pid)
    started = time.monotonic()
    with Lock(tmp_path, beat_seconds=10, silence_seconds=100):
        assert time.monotonic() - started < 1


def test_an_owner_in_another_container_of_this_host_is_not_taken_for_gone(tmp_path):
    """Containers share the host's name where they share its network, and number their processes on their own."""
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    leave_owner(tmp_path, host=platform.node(), pid=process.pid, processes="pid:[1]")
    timer = threading.Timer(0.2, lambda: os.utime(tmp_path / FILE, (1, 1)))
    timer.start()
    with pytest.raises(UserError, match="is training this run"), Lock(tmp_path, **QUICK):
        pytest.fail("two owners")
    timer.join()


def test_what_a_lock_says_of_its_process_is_what_it_compares(tmp_path):
    with Lock(tmp_path, **QUICK):
        owner = json.loads((tmp_path / FILE).read_text())
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    leave_owner(tmp_path, **owner | {"pid": process.pid})
    started = time.monotonic()
    with Lock(tmp_path, beat_seconds=10, silence_seconds=100):
        assert time.monotonic() - started < 1


def test_a_silent_owner_elsewhere_is_followed_after_the_silence(tmp_path):
    leave_owner(tmp_path)
    started = time.monotonic()
    with Lock(tmp_path, **QUICK):
        assert 0.3 < time.monotonic() - started < 5
    leave_owner(tmp_path)
    os.utime(tmp_path / FILE, (1, time.time() - 1000))
    started = time.monotonic()
    with Lock(tmp_path, beat_seconds=0.05, silence_seconds=100):
        assert time.monotonic() - started < 5, "it was silent for long"


def test_an_owner_elsewhere_that_shows_life_is_not_followed(tmp_path):
    leave_owner(tmp_path)
    timer = threading.Timer(0.2, lambda: os.utime(tmp_path / FILE, (1, 1)))
    timer.start()
    with pytest.raises(UserError, match="process 1 on elsewhere is training this run"), Lock(tmp_path, **QUICK):
        pytest.fail("two owners")
    timer.join()


@pytest.mark.parametrize("content", ["", "[]", '{"pid": "x", "host": 3}', "{}"])
def test_an_owner_that_cannot_be_read_is_waited_for_at_most(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    with Lock(tmp_path, **QUICK) as lock:
        assert lock.is_held()


def test_who_was_taken_over_notices_and_leaves_the_new_owner_alone(tmp_path):
    with Lock(tmp_path, **QUICK) as lock:
        leave_owner(tmp_path)
        assert not lock.is_held()
        with pytest.raises(UserError, match="process 1 on elsewhere has taken this run over"):
            lock.require()
        before = (tmp_path / FILE).stat().st_mtime
        time.sleep(0.2)
        assert (tmp_path / FILE).stat().st_mtime == before, "its beat is not ours"
    assert json.loads((tmp_path / FILE).read_text())["token"] == "theirs"


def test_who_is_at_work_can_be_asked_without_taking_over(tmp_path):
    assert Lock(tmp_path).find_owner() is None
    with Lock(tmp_path):
        assert Lock(tmp_path).find_owner() == f"process {os.getpid()} on {platform.node()}"
    assert Lock(tmp_path).find_owner() is None

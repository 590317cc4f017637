"""The demo's own doing: what it starts ends with it, and what is there stays."""

import json
import os
import signal
import sys
import time

import pytest

from hornet.cli import demo, demo_dense, demo_processes

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{PARENT}"
"""Ignores SIGTERM, and so does its child."""


@pytest.mark.parametrize("code", [PARENT, DEAF])
def test_all_processes_of_a_command_end_with_the_demo(code, monkeypatch, capsys):
    monkeypatch.setattr(demo_processes, "STOP_SECONDS", 0.3)
    family = []

    def leave_within():
        with demo_processes.start("sleeping", [sys.executable, "-c", code]) as process:
            while len(family) < 2:
                time.sleep(0.01)
                family[:] = demo_processes.list_family(process)
            sys.exit(143)

    with pytest.raises(SystemExit, match="143"):
        leave_within()
    while any(map(demo_processes.is_at_work, family)):  # a killed one is there for a moment
        time.sleep(0.01)
    assert "demo: ended, and sleeping with it; the same command goes on" in capsys.readouterr().err


def test_a_signal_is_an_exit_unless_it_is_ignored(monkeypatch):
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        demo_processes.catch_signals()
        os.kill(os.getpid(), signal.SIGHUP)
        for number, code in ((signal.SIGTERM, "143"), (signal.SIGINT, "130")):
            with pytest.raises(SystemExit, match=code):
                os.kill(os.getpid(), number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_command_that_fails_says_how_to_go_on():
    with pytest.raises(SystemExit) as caught:
        demo.call("counting", [sys.executable, "-c", "raise SystemExit(3)"])
    assert str(caught.value).startswith("demo: counting failed with exit code 3; nothing was removed. The same command")


def test_a_run_that_has_come_further_is_not_killed_again(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 60}) + "\n")
    demo.call_and_kill("training", ["nothing"], tmp_path, after_step=50)
    assert f"demo: {tmp_path} is at step 60 already and is not killed again" in capsys.readouterr().out


def test_scenes_stay_and_some_of_them_are_made_anew(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    called = []
    monkeypatch.setattr(demo_dense, "call", lambda title, command: called.append(command))
    folder = tmp_path / "data/demo-dense/scenes"
    for name in ("images/training/scene_00000.png", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    demo_dense.make_scenes()
    said = "demo: removing data/demo-dense/scenes/images, which is not whole, to make it again"
    assert said in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt"]
    assert len(called) == 1
    (folder / "images").mkdir()
    (folder / "classes.txt").touch()
    demo_dense.make_scenes()
    assert (folder / "images").exists()
    assert len(called) == 1


def test_a_set_is_whole_where_all_of_it_is_there(toy_set, tmp_path, capsys):
    assert demo.is_whole(toy_set, "train")
    assert f"demo: {toy_set}: train is there, 48 samples" in capsys.readouterr().out
    assert not demo.is_whole(toy_set, "validation")
    assert not demo.is_whole(tmp_path, "train")

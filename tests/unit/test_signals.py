"""Signals, in processes of their own."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hornet.data.prefetch import START
from tests.patience import PATIENCE

SCRIPT = """
import os, signal, sys, time
import hornet.signals as signals
assert not {"torch", "yaml", "pydantic"} & set(sys.modules), "installed before anything that takes long"
signals.ONE_KEYSTROKE_SECONDS = 0.2
signals.catch_signals()
me = os.getpid()
"""


def run(code):
    return subprocess.run([sys.executable, "-c", SCRIPT + code], capture_output=True, text=True, timeout=PATIENCE)


def test_the_first_signal_is_remembered_and_none_kills():
    done = run("""
assert signals.heard_signal() is None
os.kill(me, signal.SIGUSR1); os.kill(me, signal.SIGTERM)
print(signals.heard_signal())
""")
    assert (done.returncode, done.stdout) == (0, "SIGUSR1\n"), done.stderr


def test_ctrl_c_asks_to_stop_and_a_later_one_interrupts_but_not_its_echo():
    done = run("""
os.kill(me, signal.SIGINT); os.kill(me, signal.SIGINT)
print(signals.heard_signal(), flush=True)
time.sleep(0.3)
os.kill(me, signal.SIGINT)
print("not reached")
""")
    assert done.returncode == -signal.SIGINT
    assert done.stdout == "SIGINT\n"
    assert done.stderr.count("Ctrl-C again ends the run at once") == 1
    assert "KeyboardInterrupt" in done.stderr


def test_once_ignored_no_signal_changes_the_exit_code():
    done = run("signals.ignore_signals()\nfor s in signals.ASKING_TO_STOP: os.kill(me, s)\nsys.exit(3)")
    assert (done.returncode, done.stderr) == (3, "")


def test_usr2_shows_the_stacks_and_goes_on_also_in_a_helper():
    code = "\ndef where_it_stands(): os.kill(me, signal.SIGUSR2)\nwhere_it_stands()\nprint('goes on')"
    for helper in ("", "signals.faulthandler.unregister(signal.SIGUSR2); signals.leave_signals_to_main()\n"):
        done = run(helper + code)
        assert (done.returncode, done.stdout) == (0, "goes on\n")
        assert "in where_it_stands" in done.stderr


@pytest.mark.slow
def test_the_process_that_reads_ahead_outlives_a_signal_to_all_and_ends_with_its_input():
    command = [sys.executable, "-c", START.format(path=sys.path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while int(Path(f"/proc/{process.pid}/status").read_text().split("SigIgn:\t")[1].split()[0], 16) >> 14 & 1 == 0:
        time.sleep(0.01)
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
        process.send_signal(number)
    errors = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 1, "it got as far as its input, which is empty here"
    assert "JSONDecodeError" in errors

"""How ranks are started, and what becomes of a start that fails."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.conftest import ROOT, Ranks, make_environment

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent


def start(words, **extra):
    """Run a command as a user types it; return it when it has ended."""
    environment = make_environment(PATH=f"{BIN}:{os.environ['PATH']}", **extra)
    return subprocess.run(
        list(map(str, words)), capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300, check=False
    )


def read_num_ranks(run):
    """How many ranks the run itself reports."""
    return json.loads((run / "environment.json").read_text())["world"]["num_ranks"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_ranks_say_for_whom_they_wait_and_end_on_a_signal(pretraining, tmp_path, number, code):
    third = {"WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3"}
    ranks = Ranks("pretrain.py", "--config", pretraining(), environments=(third, third))
    said = Path(ranks._outputs.name) / "0"
    deadline = time.monotonic() + 120
    while not re.search(
        r"2 of 3 ranks have come to 127.0.0.1:\d+, missing: rank 2; it gives up after", said.read_text()
    ):
        assert time.monotonic() < deadline, said.read_text()
        time.sleep(0.1)
    ranks.processes[1].send_signal(number)
    codes, outputs = ranks.wait(60)
    assert codes == [2, code], outputs
    assert f"rank 1: ended by {number.name} after " in outputs[1]
    assert "error: rank 1 left before all ranks had come; its own output says why" in outputs[0]
    assert "Traceback" not in outputs[0] + outputs[1]
    assert not (tmp_path / "runs").exists()


def test_a_port_in_use_ends_in_a_sentence(pretraining):
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = other.getsockname()[1]
        taken = {"MASTER_PORT": str(port)}
        ranks = Ranks("pretrain.py", "--config", pretraining(), environments=(taken,))
        codes = [ranks.processes[0].communicate(60) and ranks.processes[0].returncode]
        ranks.processes[1].send_signal(signal.SIGTERM)
        codes, outputs = ranks.wait(60)
    assert codes == [2, 143]
    assert f"error: port {port} of {socket.gethostname()}, where the ranks are to meet, is in use" in outputs[0]
    assert "Traceback" not in outputs[0]


def test_a_network_that_is_not_there_ends_in_a_sentence(pretraining):
    nowhere = {"GLOO_SOCKET_IFNAME": "nowhere0"}
    codes, outputs = Ranks("pretrain.py", "--config", pretraining(), environments=(nowhere, nowhere)).wait(60)
    assert codes == [2, 2], outputs
    assert "cannot talk to each other: " in outputs[0]
    assert "name the network that they share in GLOO_SOCKET_IFNAME" in outputs[0]

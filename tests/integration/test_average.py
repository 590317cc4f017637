"""Averages made by two ranks are those that one makes: the same counts, the same choice, the same weights."""

import json
import subprocess
import sys

import pytest
import torch

from hornet.stages.pretrained import read_pretrained
from tests.integration.conftest import ROOT, make_environment
from tests.patience import PATIENCE
from tests.unit.shards.making import make_set

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of averages, and what rank 0 of each world told by size and method."""
    folder = tmp_path_factory.mktemp("averages")
    command = [sys.executable, "-m", "tests.integration.averaging_ranks", folder, make_set(folder / "set"), "1", "2"]
    done = subprocess.run(command, cwd=ROOT, env=make_environment(), capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"num_ranks"')]
    return folder, {(line["method"], line["num_ranks"]): line["rows"] for line in lines}


@pytest.mark.parametrize("method", ["best", "soup"])
def test_two_ranks_make_what_one_makes(made, method):
    folder, rows = made
    alone, both = rows[method, 1], rows[method, 2]
    assert [row["name"] for row in both] == [row["name"] for row in alone]
    for row, expected in zip(both, alone, strict=True):
        assert (row["num_hits"], row["num_images"]) == (expected["num_hits"], 48), "padding of 48 to 49 and 56 is none"
        assert row["is_chosen"] == expected["is_chosen"]
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    weights = [
        read_pretrained(folder / f"{method}_{num_ranks}", weights="raw", label_space=None).state_dict
        for num_ranks in (1, 2)
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())
    assert json.loads((folder / f"{method}_2/average.json").read_text())

"""What a reader that leaves early, as `head` does, sees of commands that print: no trace of its leaving."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hornet.config import load_config
from hornet.runs.begun import write_config
from pretrain.config import PretrainConfig
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[3]
DEMO = ROOT / "configs/demo/pretrain.yaml"
CALL = "import sys; from hornet.cli import main; main(sys.argv[1:])"


def run_closed(*words):
    """Return the exit code of a command whose output nobody reads, and what it said beside."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-c", CALL, *map(str, words)],
            cwd=ROOT,
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
        )
    finally:
        os.close(writing)
    return done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["--help"], ["configs"], ["configs", "--help"], ["pretrain", "--help"]], ids=" ".join
)
def test_lists_and_help_end_well(words):
    assert run_closed(*words) == (0, "")


@pytest.mark.slow
def test_what_is_said_of_sets_ends_well(toy_set, tmp_path):
    assert run_closed("shards", "info", toy_set) == (0, "")
    code, said = run_closed("shards", "verify", toy_set)
    assert (code, "BrokenPipe" in said) == (0, False)
    code, said = run_closed("shards", "subset", toy_set, tmp_path / "half", "--fraction", 0.5)
    assert (code, "BrokenPipe" in said, (tmp_path / "half/_info.json").exists()) == (0, False, True)


@pytest.mark.slow
def test_a_page_is_written_and_ends_well(tmp_path):
    (tmp_path / "x").mkdir()
    write_config(tmp_path / "x", load_config(PretrainConfig, path=DEMO))
    code, said = run_closed("report", tmp_path / "x")
    assert (code, "BrokenPipe" in said, (tmp_path / "x/report.html").exists()) == (0, False, True)

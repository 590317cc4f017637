"""launch/shards.py as a user runs it, and pools that a script does not close."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.shards.making import encode, picture, write_shards

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "launch" / "shards.py"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    """Run the script in this process: a new one would import torch for seconds."""
    monkeypatch.syspath_prepend(ROOT)  # the script replaces the path's first entry; this one is put back
    specification = importlib.util.spec_from_file_location("shards_command", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["shards.py", *map(str, arguments)])
    module.main()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for number in range(6):
        path = tmp_path / "source" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture(number), "JPEG"))
    (tmp_path / "source" / "a" / "bad.jpg").write_bytes(b"bad")
    return tmp_path / "source"


def test_build_then_info(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "build", source, tmp_path / "pets", "--split", "train", "--samples-per-shard", "4")
    built = capsys.readouterr().out
    assert "label space  pets, 2 classes, " in built
    assert "split        train: 6 samples in 2 shards, " in built
    assert "dropped      1 pictures (1 undecodable)" in built
    run(monkeypatch, "info", tmp_path / "pets")
    described = capsys.readouterr().out.splitlines()
    assert described == built.splitlines()[: len(described)]


def test_index_says_when_classes_are_numbered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards(tmp_path)
    run(monkeypatch, "index", tmp_path)
    out = capsys.readouterr().out
    assert "split        train: 48 samples in 4 shards" in out
    assert (
        "note         class names are not known, so the classes are numbered; give them with --classes NAME|FILE" in out
    )


def test_bad_input_ends_with_2_and_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "info", tmp_path)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "_info.json is missing" in error


FORGETFUL = """
import sys
from pathlib import Path
from hornet.data.loader import StreamConfig, open_train_stream
from hornet.data.augment.transforms import TransformConfig
from hornet.world import ALONE
config = StreamConfig(shards=Path(sys.argv[1]), num_workers=2, transform=TransformConfig(image_size=8))
def train():
    stream = open_train_stream(config, world=ALONE, seed=0, global_batch_size=8, micro_batch_size=8)
    for batch in stream.iterate(0, 6):
        raise RuntimeError("training failed")
train()
"""


@pytest.mark.slow
def test_a_script_that_fails_with_open_streams_ends_at_once(toy_set: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORGETFUL, toy_set], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1
    assert done.stderr.strip().endswith("RuntimeError: training failed")

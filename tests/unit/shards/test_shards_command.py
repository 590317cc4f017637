"""launch/shards.py as a user runs it, and pools that a script does not close."""

from __future__ import annotations

import io
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from hornet.cli.shards import main
from tests.patience import PATIENCE
from tests.unit.shards.making import encode, make_image, write_shards

ROOT = Path(__file__).resolve().parents[3]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    """Run the command in this process: a new one would import torch for seconds."""
    monkeypatch.setattr(sys, "argv", ["shards.py", *map(str, arguments)])
    main()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for number in range(6):
        path = tmp_path / "source" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(make_image(number), "JPEG"))
    (tmp_path / "source" / "a" / "bad.jpg").write_bytes(b"bad")
    return tmp_path / "source"


def test_build_then_info(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "build", source, tmp_path / "pets", "--split", "train", "--samples-per-shard", "4")
    built = capsys.readouterr().out
    assert "label space  pets, 2 classes, " in built
    assert "split        train: 6 samples in 2 shards, " in built
    assert "dropped      1 images (1 undecodable)" in built
    run(monkeypatch, "info", tmp_path / "pets")
    described = capsys.readouterr().out.splitlines()
    assert described == built.splitlines()[: len(described)]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_that_a_terminal_cannot_show_are_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """A folder from an old Windows archive: its name is no UTF-8, as the terminal's is, and is told all the same."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/source/caf\xe9"))
    folder.mkdir(parents=True)
    (folder / "1.jpg").write_bytes(encode(make_image(1), "JPEG"))
    with io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        run(monkeypatch, "build", tmp_path / "source", tmp_path / "out")
        terminal.flush()
        said = terminal.buffer.getvalue()  # type: ignore[attr-defined]
    assert b"largest caf\\udce9 1" in said


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


def test_patterns_may_be_given_again_and_not_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards(tmp_path)
    run(monkeypatch, "index", tmp_path, "--pattern", "toy-0[01].tar", "--pattern", "toy-03.tar")
    out = capsys.readouterr().out
    assert "split        train: 36 samples in 3 shards" in out
    assert "passed over  36 .json ('s0000.json' for one)" in out
    assert "note         1 other tars are not part of the set, toy-02.tar for one" in out
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "index", f"{tmp_path}/toy-*.tar", "--pattern", "toy-00.tar")
    assert caught.value.code == 2
    assert "toy-*.tar names the tars already; give one of them" in capsys.readouterr().err


def test_help_names_the_format_of_images_written_anew(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # no line ends within a word
    with pytest.raises(SystemExit):
        run(monkeypatch, "build", "--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "--rewrite-all write every image anew, in --format" in text
    assert "(default: jpeg with --max-short-edge, else png, which loses nothing)" in text


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
from hornet.data.loader import open_train_stream
from hornet.data.config import StreamConfig
from hornet.data.config import TransformConfig
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
        [sys.executable, "-c", FORGETFUL, toy_set],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip().endswith("RuntimeError: training failed")


def test_a_full_disk_is_told_without_a_traceback(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "build", source, tmp_path / "pets")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(SystemExit) as ended:
            run(monkeypatch, "subset", tmp_path / "pets", tmp_path / "half", "--fraction", "0.5")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert ended.value.code == 2
    assert "half: File too large; make room, then start the command again" in capsys.readouterr().err

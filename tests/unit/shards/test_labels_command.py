"""`launch/shards.py labels` as a user types it: the table, the classes of one label space, the map between two."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hornet.errors import UserError
from hornet.shards.imagenet import LAYOUTS, make_layout
from hornet.shards.label_report import describe_map, list_classes, report_labels
from hornet.shards.label_space import LabelSpace
from tests.unit.shards.test_shards_command import ROOT, run


def labels(*spaces: str | Path, is_plain: bool = False, map_file: Path | None = None) -> list[str]:
    return report_labels([str(space) for space in spaces], is_plain=is_plain, map_file=map_file).splitlines()


def test_the_table_names_every_known_space_with_its_fingerprint() -> None:
    rows = [line.split(maxsplit=3) for line in labels()[1:]]
    assert [(name, int(size)) for name, size, _, _ in rows] == [
        *((name, len(make_layout(name))) for name in LAYOUTS),
        ("imagenet-w21", 19_167),
    ]
    assert [mark for _, _, mark, _ in rows] == [*(make_layout(name).fingerprint[:16] for name in LAYOUTS), "-"]


def test_classes_are_listed_with_label_and_meaning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "labels", "imagenet-1k")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1000
    assert lines[850] == "850\tn04399382\tteddy, teddy bear"


def test_names_without_a_known_meaning_stand_alone() -> None:
    space = LabelSpace(name="pets", classes=("cat", "n01440764", "n99999999"))
    assert list_classes(space, is_plain=False) == "0\tcat\n1\tn01440764\ttench, Tinca tinca\n2\tn99999999"


def test_a_plain_list_is_a_class_list_again(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n".join(labels("hornet-22k", is_plain=True)))
    assert labels(tmp_path / "list.txt", is_plain=True) == list(make_layout("hornet-22k").classes)


def test_the_written_map_to_1k_is_hornets_released_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "labels", "hornet-22k", "imagenet-1k", "--map", tmp_path / "map.json")
    assert "mapped       1000 of the 1000 classes of imagenet-1k are in hornet-22k" in capsys.readouterr().out
    indices = json.loads((tmp_path / "map.json").read_text())
    assert hashlib.sha256(str(indices).encode()).hexdigest().startswith("aa88c0913a799b8a")


def test_what_has_no_counterpart_is_listed_both_ways() -> None:
    lines = labels("imagenet-22k", "imagenet-1k")
    assert lines[2:6] == [
        "mapped       999 of the 1000 classes of imagenet-1k are in imagenet-22k",
        "missing      1 of imagenet-1k, not in imagenet-22k",
        "             n04399382  teddy, teddy bear",
        "left over    20842 of imagenet-22k, not in imagenet-1k",
    ]
    assert lines[-1] == "             ... and 20822 more"
    pets = LabelSpace(name="pets", classes=("cat", "dog"))
    assert describe_map(pets, pets).splitlines()[2:] == [
        "mapped       2 of the 2 classes of pets are in pets",
        "missing      0 of pets, not in pets",
        "left over    0 of pets, not in pets",
    ]


@pytest.mark.parametrize(
    ("spaces", "is_plain", "map_name", "message"),
    [
        (("a", "b", "c"), False, None, "labels: takes up to two label spaces, not 3"),
        ((), True, None, "--plain: lists the classes of one label space, not of 0"),
        (("hornet-22k",), False, "map.json", "--map: takes two label spaces, from and to, not 1"),
        (("hornet-22k", "imagenet-1k"), False, "none/map.json", r"--map .*none/map\.json: cannot be written \(No such"),
        (("imagenet_1k",), False, None, r"'imagenet_1k' is neither .* \(did you mean imagenet-1k\?\); known are"),
    ],
)
def test_what_labels_refuses(
    tmp_path: Path, spaces: tuple[str, ...], is_plain: bool, map_name: str | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        labels(*spaces, is_plain=is_plain, map_file=None if map_name is None else tmp_path / map_name)


def test_a_reader_that_leaves_early_makes_no_noise() -> None:
    """`labels NAME | head` closes the pipe before everything is written."""
    code = "from hornet.cli import print_to_pipe; print_to_pipe('x' * 1_000_000)"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")

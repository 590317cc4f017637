"""subset, duplicates and info --page of launch/shards.py, as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.shards.making import encode, index, make_image, write_shard
from tests.unit.shards.test_shards_command import run


def test_duplicates_then_subset(
    toy_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    samples = [("same", "png", encode(make_image(1)), 0), ("new", "png", encode(make_image(999)), 4)]
    write_shard(tmp_path / "other" / "o.tar", samples)
    other = index(tmp_path / "other", split="validation")
    excluded, page = tmp_path / "exclude.jsonl", tmp_path / "pairs.html"
    options = ["--output", excluded, "--workers", "1", "--distance", "20", "--page", page]
    run(monkeypatch, "duplicates", toy_set, other, *options)
    out = capsys.readouterr().out
    assert "compared     48 of train with 2 of validation" in out
    assert "found        1 near 1 others: 1 of equal bytes, 0 that look alike" in out
    assert f"listed in    {excluded}" in out
    assert page.read_text().count('class="pair"') == 1
    view = tmp_path / "view"
    run(monkeypatch, "subset", toy_set, view, "--exclude", excluded, "--fraction", "0.5", "--seed", "1")
    out = capsys.readouterr().out
    assert "set          view " in out
    assert "kept         train: 24 of 48 samples; left out: 1 listed, 23 not drawn" in out
    assert "seed 1" in out


def test_info_writes_a_page(
    toy_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "info", toy_set, "--page", tmp_path / "page.html")
    assert "classes      train: 9 / 10 / 10 images a class" in capsys.readouterr().out
    assert "<svg" in (tmp_path / "page.html").read_text()


def test_subset_without_a_choice_is_refused(
    toy_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "subset", toy_set, tmp_path / "view")
    assert caught.value.code == 2
    assert "error: nothing to choose: give --fraction" in capsys.readouterr().err

"""Smaller sets that copy nothing: nested shares, other label spaces, samples left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornet.data.config import StreamConfig, TransformConfig
from hornet.data.loader import open_train_stream
from hornet.errors import UserError
from hornet.shards.manifest import fingerprint_split, read_manifest
from hornet.shards.reader import ShardReader
from hornet.shards.shard_set import open_shards
from hornet.shards.views import exclusion
from hornet.shards.views.subset import SubsetPlan, SubsetReport, describe_subset, make_subset
from tests.unit.shards.making import encode, index, key_hash, make_image, make_set, rank_of, write_shard


def choose(source: Path, output: Path, **options: Any) -> SubsetReport:
    values: dict[str, Any] = dict.fromkeys(("split", "fraction", "per_class", "classes", "exclude"))
    values |= {"name": "small", "seed": 0, "allow_empty_classes": False, "allow_unmatched": False}
    return make_subset(SubsetPlan(source=source, output=output, **(values | options)))


def read_all(folder: Path, split: str = "train") -> dict[str, tuple[int, bytes]]:
    """Label and image by key."""
    shards = open_shards(folder, split)
    reader = ShardReader(shards)
    raws = [reader.read(sample) for sample in range(shards.num_samples)]
    reader.close()
    assert len({raw.key for raw in raws}) == len(raws)
    return {raw.key: (raw.label, raw.image) for raw in raws}


def stream_all(folder: Path) -> dict[int, tuple[int, bytes]]:
    """Label and pixels by key, of three epochs; the crop is the whole image of 26 x 20, whatever is drawn."""
    transform = TransformConfig(image_size=16, crop_scale=(1.0, 1.0), crop_ratio=(1.3, 1.3))
    config = StreamConfig(shards=folder, partial_batch="carry", transform=transform)
    stream = open_train_stream(config, world=rank_of(0, 1), seed=5, global_batch_size=4, micro_batch_size=4)
    seen: dict[int, tuple[int, bytes]] = {}
    for batch in stream.iterate(0, 3 * stream.num_samples // 4):
        assert not batch.bad_samples
        for key, label, image in zip(batch.key_hashes, batch.labels, batch.images_bchw, strict=True):
            seen[int(key)] = (int(label), image.numpy().tobytes())
    stream.close()
    return seen


def write_list(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def two_splits(tmp_path: Path) -> Path:
    folder = make_set(tmp_path / "set", num_shards=3, samples_per_shard=20)
    samples = [(f"v{number}", "png", encode(make_image(900 + number)), number % 5) for number in range(10)]
    (tmp_path / "other").mkdir()
    write_shard(tmp_path / "other" / "val-00.tar", samples)
    index(tmp_path / "other", split="validation", output=folder)
    return folder


# Views


@given(st.floats(0.01, 1), st.floats(0.01, 1))
def test_views_are_nested(toy_set: Path, tmp_path_factory: pytest.TempPathFactory, one: float, other: float) -> None:
    folder = tmp_path_factory.mktemp("nested")
    small, large = sorted([one, other])
    choose(toy_set, folder / "small", fraction=small, seed=3)
    choose(toy_set, folder / "large", fraction=large, seed=3)
    assert read_all(folder / "small").items() <= read_all(folder / "large").items()


def test_few_shot_views_are_nested_and_inside_the_source(toy_set: Path, tmp_path: Path) -> None:
    views = []
    for number in (1, 4, 100):
        choose(toy_set, tmp_path / str(number), per_class=number)
        views.append(read_all(tmp_path / str(number)))
    source = read_all(toy_set)
    assert views[0].items() <= views[1].items() <= views[2].items()
    assert views[2] == source
    assert sorted(label for label, _ in views[1].values()) == sorted(list(range(5)) * 4)


def test_seeds_choose_otherwise_and_a_seed_the_same(toy_set: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        choose(toy_set, tmp_path / name, fraction=0.5, seed=seed)
    a, b, c = (read_all(tmp_path / name) for name in "abc")
    assert a == b
    assert a != c
    prints = [
        fingerprint_split(m.split("train"), m.label_space) for m in map(read_manifest, (tmp_path / "a", tmp_path / "b"))
    ]
    assert prints[0] == prints[1]


def test_a_class_never_vanishes_unless_asked(toy_set: Path, tmp_path: Path) -> None:
    report = choose(toy_set, tmp_path / "kept", fraction=0.01)
    assert report.manifest.split("train").class_counts == (1, 1, 1, 1, 1)
    with pytest.raises(UserError, match=r"no sample of split 'train' is left; keep more"):
        choose(toy_set, tmp_path / "empty", fraction=0.001, allow_empty_classes=True)
    assert not (tmp_path / "empty" / "_info.json").exists()


def test_a_view_of_a_view_points_to_the_tars(toy_set: Path, tmp_path: Path) -> None:
    choose(toy_set, tmp_path / "half", fraction=0.5)
    choose(tmp_path / "half", tmp_path / "few", per_class=1)
    choose(toy_set, tmp_path / "direct", per_class=1)
    assert read_manifest(tmp_path / "few").split("train").shard_folder == str(toy_set.resolve())
    assert read_all(tmp_path / "few") == read_all(tmp_path / "direct")


def test_tars_without_a_chosen_sample_are_dropped(toy_set: Path, tmp_path: Path) -> None:
    report = choose(toy_set, tmp_path / "few", per_class=1, seed=1)
    split = report.manifest.split("train")
    assert set(split.shards) == {f"{key.split('/')[0]}.tar" for key in read_all(tmp_path / "few")}
    assert len(split.shards) < 4


def test_other_splits_are_carried_whole(two_splits: Path, tmp_path: Path) -> None:
    report = choose(two_splits, tmp_path / "view", fraction=0.1)
    assert report.manifest.split("train").num_samples == pytest.approx(6, abs=1)
    assert read_all(tmp_path / "view", "validation") == read_all(two_splits, "validation")
    alone = choose(two_splits, tmp_path / "alone", per_class=1, split="validation")
    assert list(alone.manifest.splits) == ["validation"]
    assert alone.manifest.split("validation").num_samples == 5


def test_classes_are_relabelled_by_name_in_all_splits(two_splits: Path, tmp_path: Path) -> None:
    classes = tmp_path / "three.txt"
    classes.write_text("class_00003\nunheard\nclass_00001\n")
    report = choose(two_splits, tmp_path / "view", classes=str(classes))
    assert report.missing_classes == ("unheard",)
    for split in ("train", "validation"):
        source, view = (read_all(folder, split) for folder in (two_splits, tmp_path / "view"))
        assert view == {key: ({3: 0, 1: 2}[label], image) for key, (label, image) in source.items() if label in (1, 3)}
    assert report.manifest.split("train").class_counts == (12, 0, 12)
    text = describe_subset(report)
    assert "missing      1 classes have no counterpart in the source: unheard" in text
    assert "kept         train: 24 of 60 samples; left out: 36 other classes" in text


def test_classes_may_come_from_a_set(two_splits: Path, tmp_path: Path) -> None:
    names = tmp_path / "two.txt"
    names.write_text("class_00004\nclass_00000\n")
    choose(two_splits, tmp_path / "two", classes=str(names))
    again = choose(two_splits, tmp_path / "again", classes=str(tmp_path / "two"), fraction=0.5)
    assert again.manifest.label_space.classes == ("class_00004", "class_00000")
    assert again.manifest.split("train").class_counts == (6, 6)


def test_origin_says_how_it_was_made(two_splits: Path, tmp_path: Path) -> None:
    report = choose(two_splits, tmp_path / "view", fraction=0.5, seed=9)
    source = read_manifest(two_splits)
    origin = report.manifest.split("train").origin
    assert origin["command"] == "subset"
    assert origin["source"] == str(two_splits.resolve())
    assert origin["source_fingerprint"] == fingerprint_split(source.split("train"), source.label_space)
    assert origin["options"] == {"fraction": 0.5, "seed": 9}
    assert origin["counts"] == {"source": 60, "other classes": 0, "not drawn": 30, "kept": 30}
    assert report.manifest.split("validation").origin["options"] == {}


# Samples left out


def test_samples_are_left_out_by_key_or_by_byte(toy_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = open_shards(toy_set, "train").records
    rows = [
        {"key": "toy-00/s0003"},
        {"shard": "toy-02.tar", "offset": int(records["offset"][24])},
        {"key": "of no account/1", "shard": "toy-02", "offset": int(records["offset"][30]), "distance": 3},
    ]
    opened: list[int] = []
    read_stems = exclusion._read_stems
    monkeypatch.setattr(
        exclusion, "_read_stems", lambda shards, number: opened.append(number) or read_stems(shards, number)
    )
    choose(toy_set, tmp_path / "view", exclude=write_list(tmp_path / "list.jsonl", *rows))
    assert read_all(toy_set).keys() - read_all(tmp_path / "view").keys() == {
        "toy-00/s0003", "toy-02/s0024", "toy-02/s0030"
    }  # fmt: skip
    assert opened == [0]


def test_the_training_stream_never_yields_what_was_left_out(toy_set: Path, tmp_path: Path) -> None:
    excluded = [f"toy-{number // 12:02d}/s{number:04d}" for number in range(0, 48, 7)]
    choose(toy_set, tmp_path / "view", exclude=write_list(tmp_path / "l.jsonl", *({"key": key} for key in excluded)))
    source, view = stream_all(toy_set), stream_all(tmp_path / "view")
    assert source.keys() - view.keys() == {key_hash(key) for key in excluded}
    assert view.items() <= source.items()


def test_an_entry_that_names_no_sample_is_an_error_unless_allowed(toy_set: Path, tmp_path: Path) -> None:
    rows = write_list(tmp_path / "l.jsonl", {"key": "toy-00/s0003"}, {"shard": "toy-01", "offset": 5}, {"key": "a/b"})
    with pytest.raises(UserError, match=r"l.jsonl: line 2: names no sample of split 'train' .*2 such lines"):
        choose(toy_set, tmp_path / "view", exclude=rows)
    report = choose(toy_set, tmp_path / "view", exclude=rows, allow_unmatched=True)
    assert report.manifest.split("train").num_samples == 47
    assert "unmatched    2 lines name no sample; the first: " in describe_subset(report)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"key": "no slash"}\n', r'l.jsonl: line 1: must hold "shard" and "offset", or a "key"'),
        ("[1]\n", r"l.jsonl: line 1: must hold"),
        ("{oops\n", r"l.jsonl: line 1 is not JSON"),
        ('{"key": "a/b"}', r"l.jsonl: its last line has no end, the file was cut"),
    ],
)
def test_damaged_lists_are_refused(toy_set: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "l.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        choose(toy_set, tmp_path / "view", exclude=tmp_path / "l.jsonl")


def test_a_missing_list_is_named(toy_set: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"l.jsonl: the list of samples to leave out is not there"):
        choose(toy_set, tmp_path / "view", exclude=tmp_path / "l.jsonl")


# All in one, and refusals


def test_exclusion_comes_before_the_share(toy_set: Path, tmp_path: Path) -> None:
    classes = tmp_path / "two.txt"
    classes.write_text("class_00001\nclass_00000\n")
    rows = write_list(tmp_path / "l.jsonl", *({"key": f"toy-00/s{number:04d}"} for number in (0, 1, 2)))
    report = choose(toy_set, tmp_path / "view", classes=str(classes), exclude=rows, fraction=0.5)
    counts = report.manifest.split("train").origin["counts"]
    assert counts == {"source": 48, "other classes": 28, "listed": 2, "not drawn": 9, "kept": 9}


def test_a_set_is_not_overwritten_and_nothing_half_made_stays(toy_set: Path, tmp_path: Path) -> None:
    choose(toy_set, tmp_path / "view", per_class=1)
    with pytest.raises(UserError, match=r"view/_info.json: a set is already there; choose another output folder"):
        choose(toy_set, tmp_path / "view", per_class=2)
    assert sorted(path.name for path in (tmp_path / "view").iterdir()) == ["_info.json", "train.index.npy"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"nothing to choose: give --fraction"),
        ({"fraction": 0.0}, r"--fraction: must be over 0 and at most 1, not 0.0"),
        ({"per_class": 0}, r"--per-class: must be at least 1, not 0"),
        ({"fraction": 0.5, "per_class": 1}, r"--fraction and --per-class: give one of the two"),
        ({"per_class": 1, "allow_empty_classes": True}, r"--allow-empty-classes: has no effect without --fraction"),
        ({"per_class": 1, "allow_unmatched": True}, r"--allow-unmatched: has no effect without --exclude"),
        ({"split": "test"}, r"there is no split 'test'"),
    ],
)
def test_wrong_options_are_refused(toy_set: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose(toy_set, tmp_path / "view", **options)


def test_a_set_without_train_needs_a_split(tmp_path: Path) -> None:
    make_set(tmp_path / "a")
    index(tmp_path / "a", split="validation", output=tmp_path / "b")
    with pytest.raises(UserError, match=r"there is no split 'train' to reduce; name one with --split"):
        choose(tmp_path / "b", tmp_path / "view", per_class=1)


def test_classes_with_nothing_in_common_are_refused(toy_set: Path, tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("cat\n")
    with pytest.raises(UserError, match=r"none of its 1 classes \('cat', ...\) is among the 5 of the source"):
        choose(toy_set, tmp_path / "view", classes=str(tmp_path / "c.txt"))

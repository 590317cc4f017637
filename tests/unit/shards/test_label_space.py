from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornet.errors import UserError
from hornet.shards.label_space import LabelSpace, map_classes, number_classes, read_class_list, read_label_space

names = st.lists(st.text("abcn0123", min_size=1, max_size=4), min_size=1, max_size=8, unique=True)


def space(*classes: str) -> LabelSpace:
    return LabelSpace(name="toy", classes=classes)


def test_fingerprint_is_sha256_of_the_ordered_names() -> None:
    assert space("n01", "n02").fingerprint == hashlib.sha256(b"n01\nn02").hexdigest()


def test_fingerprint_depends_on_the_order_but_not_on_the_name() -> None:
    assert space("a", "b").fingerprint != space("b", "a").fingerprint
    assert LabelSpace(name="other", classes=("a", "b")).fingerprint == space("a", "b").fingerprint


@given(names)
def test_json_round_trip(classes: list[str]) -> None:
    assert read_label_space(space(*classes).to_json(), source=Path("x")) == space(*classes)


def test_repeated_names_are_refused() -> None:
    with pytest.raises(UserError, match=r"label space 'toy': 1 class names stand more than once \(cat\)"):
        space("cat", "dog", "cat")


@pytest.mark.parametrize("name", ["a\nb", " "])
def test_names_that_would_blur_the_fingerprint_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="may not be blank or hold a newline"):
        space(name)


def test_an_empty_label_space_is_refused() -> None:
    with pytest.raises(UserError, match="has no classes"):
        space()


def test_a_list_changed_by_hand_is_noticed() -> None:
    value = space("a", "b").to_json()
    value["classes"] = ["b", "a"]
    with pytest.raises(UserError, match=r"info\.json: label_space\.fingerprint is .* but its 2 classes have"):
        read_label_space(value, source=Path("info.json"))


def test_a_label_space_without_classes_is_named() -> None:
    with pytest.raises(UserError, match=r"info\.json: label_space must hold name, fingerprint and classes"):
        read_label_space({"name": "x"}, source=Path("info.json"))


def test_map_by_name() -> None:
    found = map_classes(space("n3", "n1", "n2"), space("n1", "n9", "n3"))
    assert found.source_indices == (1, -1, 0)
    assert found.missing == ("n9",)
    assert found.left_over == ("n2",)
    assert found.num_shared == 2


@given(names, names)
def test_what_has_no_counterpart_is_told_both_ways(first: list[str], second: list[str]) -> None:
    there, back = map_classes(space(*first), space(*second)), map_classes(space(*second), space(*first))
    assert (there.missing, there.left_over) == (back.left_over, back.missing)
    assert there.num_shared == back.num_shared == len(set(first) & set(second))
    assert {*there.missing, *there.left_over} == set(first) ^ set(second)


@given(names, st.randoms())
def test_a_map_to_a_reordered_space_is_complete_and_right(classes: list[str], random: object) -> None:
    shuffled = sorted(classes, key=lambda _: random.random())  # type: ignore[attr-defined]
    found = map_classes(space(*classes), space(*shuffled))
    assert found.missing == ()
    assert [classes[index] for index in found.source_indices] == shuffled


def test_class_list_file(tmp_path: Path) -> None:
    (tmp_path / "synsets.txt").write_text("n01\n\nn02 \n")
    assert read_class_list(tmp_path / "synsets.txt") == LabelSpace(name="synsets", classes=("n01", "n02"))
    with pytest.raises(UserError, match=r"none\.txt: the list of classes cannot be read"):
        read_class_list(tmp_path / "none.txt")


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfn01\nn02\n",
        b"n01\r\nn02\r\n",
        b"n01\rn02",
        b"n01 \t\n\n  n02\xc2\xa0\n\n",
    ],
)
def test_what_editors_put_into_lists_does_not_count(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    assert read_class_list(tmp_path / "list.txt").classes == ("n01", "n02")


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("0\tn01440764\ttench\n1\tn01443537\tgoldfish", "line 1 holds a tab"),
        ("cat\n\ndog\thound", "line 3 holds a tab"),
        (
            "n01440764 tench, Tinca tinca\nn01443537 goldfish",
            "line 1 holds more than a synset, 'n01440764 tench, Tinca tinca'",
        ),
        ("n01440764,0\nn01443537,1", "line 1 holds more than a synset"),
        ("n01440764 0", "line 1 holds more than a synset"),
        ("0: n01440764", "line 1 holds a number beside the synset"),
        ("0 cat\n1 dog", "line 1 holds a number beside the name"),
        ("1,cat\n2,dog", "line 1 holds a number beside the name"),
        ("cat,0\ndog,1", "line 1 holds a number beside the name"),
        ("cat;0\ndog;1", "line 1 holds a number beside the name"),
        ("# my classes\ncat\ndog", "line 1 holds a comment"),
        ("{0: 'tench',\n 1: 'goldfish'}", "line 1 holds a bracket"),
        ('["cat", "dog"]', "line 1 holds a bracket"),
    ],
)
def test_lists_with_more_than_names_in_a_line_are_refused(tmp_path: Path, lines: str, problem: str) -> None:
    (tmp_path / "list.txt").write_text(lines)
    with pytest.raises(UserError, match=rf"list\.txt: {problem}.*one name a line, nothing else, in the order"):
        read_class_list(tmp_path / "list.txt")


def test_a_list_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("n01\nn02\n", "utf-16")
    with pytest.raises(UserError, match=r"list\.txt: the list of classes cannot be read .*; it must be text in UTF-8"):
        read_class_list(tmp_path / "list.txt")


@pytest.mark.parametrize(
    "classes",
    [
        ("tench, Tinca tinca", "great white shark"),
        ("1 euro", "2 euro"),
        ("speaker 0", "speaker 1"),
        ("7", "3"),
        ("line\u2028break", "form\x0cfeed"),
        ("#1", "a,b"),
        ("0",),
    ],
)
def test_names_that_look_like_more_are_names(tmp_path: Path, classes: tuple[str, ...]) -> None:
    (tmp_path / "list.txt").write_text("\n".join(classes))
    assert read_class_list(tmp_path / "list.txt").classes == classes


def test_numbered_classes() -> None:
    assert number_classes(2).classes == ("class_00000", "class_00001")
    assert number_classes(2).is_numbered
    assert not space("class_00000", "class_00001").is_numbered

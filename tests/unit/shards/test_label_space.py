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


def test_numbered_classes() -> None:
    assert number_classes(2).classes == ("class_00000", "class_00001")
    assert number_classes(2).is_numbered
    assert not space("class_00000", "class_00001").is_numbered

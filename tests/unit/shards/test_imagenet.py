"""The named label spaces: counts and relations as published, maps against timm's own and the released one."""

from __future__ import annotations

import hashlib
import json
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornet.errors import UserError
from hornet.shards.imagenet import LAYOUTS, find_label_space, make_layout, make_winter21, name_by_size, recognise
from hornet.shards.label_space import LabelSpace, map_classes

COUNTS = {
    "imagenet-1k": 1000,
    "imagenet-22k": 21_841,
    "imagenet-21k-p-fall11": 11_221,
    "imagenet-21k-p": 10_450,
    "imagenet-12k": 11_821,
    "imagenet-21k-goog": 21_843,
    "imagenet-22k-ms": 21_842,
    "hornet-22k": 10_459,
}
MISSING_1K = {
    "imagenet-22k": 1,
    "imagenet-21k-p-fall11": 9,
    "imagenet-21k-p": 9,
    "imagenet-12k": 7,
    "imagenet-21k-goog": 1,
    "imagenet-22k-ms": 0,
    "hornet-22k": 0,
}
APPENDED = (
    "n02085782 n02089078 n02089867 n02089973 n02091635 n02108000 n02112706 n02113978 n04399382".split()  # noqa: SIM905
)


def test_all_layouts_have_their_published_size() -> None:
    assert {name: layout.num_classes for name, layout in LAYOUTS.items()} == COUNTS
    assert {name: len(make_layout(name)) for name in LAYOUTS} == COUNTS
    assert len({make_layout(name).fingerprint for name in LAYOUTS}) == len(LAYOUTS)


def test_imagenet_1k_classes_that_a_layout_lacks() -> None:
    target = make_layout("imagenet-1k")
    assert {name: len(map_classes(make_layout(name), target).missing) for name in MISSING_1K} == MISSING_1K
    assert map_classes(make_layout("imagenet-22k"), target).missing == ("n04399382",)


def test_the_smaller_ones_lie_within_the_larger() -> None:
    sets = {name: set(make_layout(name).classes) for name in LAYOUTS}
    assert sets["imagenet-21k-p"] < sets["imagenet-21k-p-fall11"] < sets["imagenet-22k"]
    assert sets["imagenet-21k-p"] < sets["imagenet-12k"] < sets["imagenet-22k"]


def test_our_map_from_1k_is_the_released_one() -> None:
    """`in1k_to_21k_map.pth` of the original repository: docs/data.md."""
    rows = map_classes(make_layout("hornet-22k"), make_layout("imagenet-1k")).source_indices
    assert hashlib.sha256(str(list(rows)).encode()).hexdigest().startswith("aa88c0913a799b8a")
    assert (min(rows), max(rows), len(set(rows))) == (209, 10_458, 1000)


def test_hornets_appended_classes_are_those_published() -> None:
    assert list(make_layout("hornet-22k").classes[10_450:]) == APPENDED


@pytest.mark.parametrize(
    ("source", "target", "file"),
    [
        ("imagenet-22k", "imagenet-12k", "imagenet22k_to_12k_indices.txt"),
        ("imagenet-21k-goog", "imagenet-12k", "imagenet21k_goog_to_12k_indices.txt"),
        ("imagenet-21k-goog", "imagenet-22k", "imagenet21k_goog_to_22k_indices.txt"),
        ("imagenet-22k-ms", "imagenet-12k", "imagenet22k_ms_to_12k_indices.txt"),
        ("imagenet-22k-ms", "imagenet-22k", "imagenet22k_ms_to_22k_indices.txt"),
    ],
)
def test_maps_equal_those_that_timm_packages(source: str, target: str, file: str) -> None:
    content = pkgutil.get_data("timm.data", f"_info/{file}")
    assert content is not None
    theirs = [int(line) for line in content.split()]
    assert list(map_classes(make_layout(source), make_layout(target)).source_indices) == theirs


@given(st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1), st.permutations("abcdefgh"))
def test_a_map_and_its_inverse_are_the_identity_where_both_know_a_class(some: list[str], other: list[str]) -> None:
    first, second = LabelSpace(name="first", classes=tuple(some)), LabelSpace(name="second", classes=tuple(other[:5]))
    there, back = map_classes(first, second), map_classes(second, first)
    for label, index in enumerate(there.source_indices):
        if index >= 0:
            assert back.source_indices[index] == label
            assert first.classes[index] == second.classes[label]
        else:
            assert second.classes[label] in there.missing
    assert set(there.missing) == set(second.classes) - set(first.classes)


def choose_winter21() -> list[str]:
    """19,167 synsets that could be winter21: those of 21K-P and the first others of fall11."""
    core = make_layout("imagenet-21k-p").classes
    others = sorted(set(make_layout("imagenet-22k").classes) - set(core))
    return [*core, *others[: 19_167 - len(core)]]


def test_winter21_is_made_of_the_users_own_synsets() -> None:
    found = choose_winter21()
    space = make_winter21(found)
    assert space.name == "imagenet-w21"
    assert space.classes == tuple(sorted(found))
    assert recognise(space.classes) == "imagenet-w21"
    assert recognise(space.classes[::-1]) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found, fall11: found[:3], "winter21 has 19167 synsets, here are 3; the copy is not whole"),
        (lambda found, fall11: fall11, "winter21 has 19167 synsets, these are all 21841 of fall11: use imagenet-22k"),
        (
            lambda found, fall11: fall11[:19_167],
            r"these 19167 synsets are not winter21's: they lack 1098 of .*n12285369",
        ),
        (lambda found, fall11: [*found[1:], "lost+found"], r"1 names are no synsets of .* fall11.*\(lost\+found\)"),
    ],
)
def test_what_is_not_winter21_is_refused(
    change: Callable[[Sequence[str], Sequence[str]], list[str]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_winter21(change(choose_winter21(), make_layout("imagenet-22k").classes))


def test_winter21_is_found_by_its_folder_or_list(tmp_path: Path) -> None:
    found = choose_winter21()
    (tmp_path / "list.txt").write_text("\n".join(found))
    assert find_label_space(f"imagenet-w21:{tmp_path / 'list.txt'}").classes == tuple(sorted(found))
    assert find_label_space(str(tmp_path / "list.txt")).name == "list"  # not in winter21's order
    copy = tmp_path / "winter21_whole"
    copy.mkdir()
    (copy / f"{found[0]}.tar").touch()
    (copy / found[1]).mkdir()
    (copy / "README").touch()
    with pytest.raises(UserError, match=r"winter21_whole: winter21 has 19167 synsets, here are 2; the copy is not"):
        find_label_space(f"imagenet-w21:{copy}")
    with pytest.raises(
        UserError, match="imagenet-w21: its 19167 synsets are packaged nowhere; write imagenet-w21:PATH"
    ):
        find_label_space("imagenet-w21")


def test_known_lists_are_recognised_by_their_order() -> None:
    classes = make_layout("imagenet-12k").classes
    assert recognise(classes) == "imagenet-12k"
    assert recognise(classes[::-1]) is None
    assert recognise(("a", "b")) is None
    assert name_by_size(21_841) == ("imagenet-22k",)
    assert name_by_size(7) == ()


def test_label_spaces_are_found_by_name_or_file(tmp_path: Path) -> None:
    (tmp_path / "pets.txt").write_text("cat\ndog\n")
    assert find_label_space(str(tmp_path / "pets.txt")) == LabelSpace(name="pets", classes=("cat", "dog"))
    assert find_label_space("imagenet-1k").classes[0] == "n01440764"


@pytest.mark.parametrize(
    ("theirs", "ours"), [("imagenet-21k-miil", "imagenet-21k-p-fall11"), ("imagenet-w21-p", "imagenet-21k-p")]
)
def test_timms_names_are_known(theirs: str, ours: str) -> None:
    assert find_label_space(theirs) == make_layout(ours)


def test_a_list_that_is_a_known_one_gets_its_name(tmp_path: Path) -> None:
    (tmp_path / "synsets.txt").write_text("\n".join(make_layout("imagenet-1k").classes))
    assert find_label_space(str(tmp_path / "synsets.txt")).name == "imagenet-1k"


def test_a_json_file_is_read_itself_whatever_it_is_called(tmp_path: Path) -> None:
    space = LabelSpace(name="pets", classes=("cat", "dog"))
    (tmp_path / "kept.json").write_text(json.dumps({"splits": {}, "label_space": space.to_json()}))
    assert find_label_space(str(tmp_path / "kept.json")) == space
    (tmp_path / "_info.json").write_text(json.dumps({"splits": {}, "label_space": space.to_json()}))
    assert find_label_space(str(tmp_path)) == space
    (tmp_path / "timms.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"timms\.json: has no label_space; give the _info\.json of an indexed set, a list"
    ):
        find_label_space(str(tmp_path / "timms.json"))
    (tmp_path / "cut.json").write_text("{")
    with pytest.raises(UserError, match=r"cut\.json: is not readable as JSON"):
        find_label_space(str(tmp_path / "cut.json"))


def test_a_timm_with_another_list_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAYOUTS, "changed", replace(LAYOUTS["imagenet-1k"], make=lambda: ("n01", "n02")))
    with pytest.raises(
        UserError,
        match=r"changed: the installed timm packages another list of 2 classes, .* not 385e0240499426c0; install",
    ):
        make_layout("changed")


def test_neither_a_name_nor_a_file() -> None:
    with pytest.raises(
        UserError,
        match=r"'imagenet-2k' is neither a file nor a known label space \(did you mean imagenet-\d+k\?\); known are "
        r"imagenet-1k, .*, imagenet-w21:PATH",
    ):
        find_label_space("imagenet-2k")
    with pytest.raises(UserError, match=r"'far/away\.json' is neither a file nor a known label space; known are"):
        find_label_space("far/away.json")
    with pytest.raises(UserError, match="there is no label space 'x'; known are imagenet-1k, "):
        make_layout("x")

"""Labels, splits and orders as arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornet.errors import UserError
from hornet.shards.build.selection import Labels, Selection, assign_labels, shuffle, split_images
from hornet.shards.imagenet import find_label_space
from hornet.shards.label_space import LabelSpace


def assign(counts: dict[str, int], *, given: tuple[str, ...] | None = None, **options: object) -> Labels:
    order = options.pop("order", None)
    return assign_labels(
        list(counts),
        np.array(list(counts.values())),
        name="made",
        given=None if given is None else LabelSpace(name="given", classes=given),
        order=order,  # type: ignore[arg-type]
        selection=Selection(**options),  # type: ignore[arg-type]
    )


def test_labels_follow_the_sorted_names() -> None:
    labels = assign({"dog": 3, "cat": 5, "ant": 1})
    assert labels.label_space.classes == ("ant", "cat", "dog")
    assert labels.of_class.tolist() == [2, 1, 0]


def test_the_sources_own_order_is_kept_with_its_empty_classes() -> None:
    labels = assign({"dog": 3, "cat": 5}, order=("dog", "emu", "cat"))
    assert labels.label_space.classes == ("dog", "emu", "cat")
    assert labels.of_class.tolist() == [0, 2]
    assert labels.empty == ("emu",)


def test_a_known_list_of_classes_takes_its_name() -> None:
    classes = find_label_space("imagenet-1k").classes
    assert assign(dict.fromkeys(reversed(classes), 3)).label_space.name == "imagenet-1k"
    assert assign(dict.fromkeys(classes, 3), order=classes[::-1]).label_space.name == "made"


def test_small_classes_are_dropped_and_named() -> None:
    labels = assign({"dog": 500, "cat": 501}, min_images_per_class=501)
    assert labels.label_space.classes == ("cat",)
    assert labels.of_class.tolist() == [-1, 0]
    assert labels.dropped == {"dog": "500 images, fewer than 501 images"}
    with pytest.raises(UserError, match="no class is left"):
        assign({"dog": 500}, min_images_per_class=501)


def test_a_given_label_space_is_kept_and_others_are_refused_or_dropped() -> None:
    with pytest.raises(UserError, match=r"1 of the source's 2 classes are not in the label space 'given' .*\(emu\)"):
        assign({"emu": 3, "cat": 5}, given=("cat", "dog"))
    labels = assign({"emu": 3, "cat": 5}, given=("cat", "dog"), other_classes="drop")
    assert labels.of_class.tolist() == [-1, 0]
    assert labels.dropped == {"emu": "not in given"}
    assert labels.empty == ("dog",)
    with pytest.raises(UserError, match="min-images-per-class: means nothing with a given label space"):
        assign({"cat": 5}, given=("cat",), min_images_per_class=2)


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=60), st.integers(0, 3))
def test_splits_are_disjoint_complete_and_the_first_of_each_class_validate(labels: list[int], num: int) -> None:
    counts = np.bincount(np.array([label for label in labels if label >= 0], int), minlength=5)
    if num and any(0 < count <= num for count in counts):
        with pytest.raises(UserError, match="validation-per-class"):
            split_images(
                np.array(labels, np.int32), Selection(validation_per_class=num), split="train", classes="abcde"
            )
        return
    splits = split_images(
        np.array(labels, np.int32), Selection(validation_per_class=num), split="train", classes="abcde"
    )
    validation = splits.get("validation", np.empty(0, np.uint32)).tolist()
    assert sorted([*splits["train"].tolist(), *validation]) == [n for n, label in enumerate(labels) if label >= 0]
    for label in range(5):
        of_label = [number for number, found in enumerate(labels) if found == label]
        assert [number for number in validation if labels[number] == label] == of_label[:num]


def test_a_class_without_training_images_is_refused_with_advice() -> None:
    with pytest.raises(UserError, match=r"1 classes have 2 images or fewer.*\(b\).*--min-images-per-class 3"):
        split_images(
            np.array([0, 0, 0, 1, 1], np.int32), Selection(validation_per_class=2), split="train", classes=("a", "b")
        )


CLASSES = ("ant", "bee", "cat", "dog", "emu")


def split_share(labels: list[int], share: float, *, classes: Sequence[str] = CLASSES, **options: int) -> list[int]:
    """Return the validation images, having seen that the two splits are disjoint and complete."""
    selection = Selection(validation_share=share, **options)  # type: ignore[arg-type]
    splits = split_images(np.array(labels, np.int32), selection, split="train", classes=classes)
    both = [*splits["train"].tolist(), *splits["validation"].tolist()]
    assert sorted(both) == [number for number, label in enumerate(labels) if label >= 0]
    return splits["validation"].tolist()


@given(st.lists(st.integers(-1, 4), max_size=80), st.floats(0.01, 0.99), st.integers(1, 4), st.integers(0, 9))
def test_a_share_is_taken_of_each_class_and_leaves_some_to_train_on(
    labels: list[int], share: float, at_least: int, seed: int
) -> None:
    counts = [labels.count(label) for label in range(5)]
    if any(0 < count <= at_least for count in counts):
        with pytest.raises(UserError, match="validation-at-least"):
            split_share(labels, share, validation_at_least=at_least)
        return
    validation = split_share(labels, share, validation_at_least=at_least, validation_seed=seed)
    for label, count in enumerate(counts):
        taken = sum(labels[number] == label for number in validation)
        assert abs(taken - share * count) <= 0.5 or taken in (at_least, count - 1)
        assert not count or at_least <= taken < count
    assert validation == split_share(labels, share, validation_at_least=at_least, validation_seed=seed)


def test_a_share_depends_on_the_seed_and_on_nothing_but_its_class() -> None:
    labels = [0] * 40 + [1] * 60
    one = split_share(labels, 0.25)
    assert one != split_share(labels, 0.25, validation_seed=1)
    assert one != list(range(10)) + list(range(40, 55)), "not the first by name"
    ants = [number for number in one if number < 40]
    swapped = split_share([0] * 70 + [1] * 40, 0.25, classes=("bee", "ant"))
    assert [number - 70 for number in swapped if number >= 70] == ants, "whatever comes before them"
    assert split_share([0] * 40, 0.25) == ants


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"validation_share": 1.0}, "validation-share: must be at least 0 and below 1, not 1"),
        ({"validation_share": -0.1}, "validation-share: must be at least 0 and below 1, not -0.1"),
        ({"validation_share": float("nan")}, "validation-share: must be at least 0 and below 1, not nan"),
        ({"validation_share": 0.1, "validation_at_least": 0}, "validation-at-least: must be at least 1, not 0"),
        ({"validation_share": 0.1, "validation_per_class": 2}, "validation-per-class the first; give only one"),
        ({"validation_seed": 1}, "validation-seed, validation-at-least: mean nothing without validation-share"),
        ({"validation_at_least": 3}, "validation-seed, validation-at-least: mean nothing without validation-share"),
    ],
)
def test_a_share_that_makes_no_sense_is_refused(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Selection(**options)  # type: ignore[arg-type]


def test_a_class_too_small_for_its_least_share_is_refused_with_advice() -> None:
    with pytest.raises(UserError, match=r"at-least: 1 classes have 3 images or fewer.*\(bee\).*-per-class 4$"):
        split_share([0] * 9 + [1] * 3, 0.2, validation_at_least=3)


def test_a_plan_says_nothing_of_a_share_without_one() -> None:
    assert list(Selection().describe()) == ["other_classes", "min_images_per_class", "validation_per_class"]
    assert Selection(validation_share=0.2).describe()["validation_seed"] == 0


def test_shuffles_are_permutations_that_depend_on_split_and_seed() -> None:
    numbers = np.arange(100, 200, dtype=np.uint32)
    orders = [shuffle(numbers, split=split, seed=seed).tolist() for split in ("train", "validation") for seed in (0, 1)]
    assert all(sorted(order) == numbers.tolist() for order in orders)
    assert len({tuple(order) for order in orders}) == 4

"""Labels, splits and orders as arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornet.errors import UserError
from hornet.shards.build.selection import Labels, Selection, assign_labels, shuffle, split_items
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
            split_items(np.array(labels, np.int32), Selection(validation_per_class=num), split="train", classes="abcde")
        return
    splits = split_items(
        np.array(labels, np.int32), Selection(validation_per_class=num), split="train", classes="abcde"
    )
    validation = splits.get("validation", np.empty(0, np.uint32)).tolist()
    assert sorted([*splits["train"].tolist(), *validation]) == [n for n, label in enumerate(labels) if label >= 0]
    for label in range(5):
        of_label = [number for number, found in enumerate(labels) if found == label]
        assert [number for number in validation if labels[number] == label] == of_label[:num]


def test_a_class_without_training_images_is_refused_with_advice() -> None:
    with pytest.raises(UserError, match=r"1 classes have 2 images or fewer.*\(b\).*--min-images-per-class 3"):
        split_items(
            np.array([0, 0, 0, 1, 1], np.int32), Selection(validation_per_class=2), split="train", classes=("a", "b")
        )


def test_shuffles_are_permutations_that_depend_on_split_and_seed() -> None:
    items = np.arange(100, 200, dtype=np.uint32)
    orders = [shuffle(items, split=split, seed=seed).tolist() for split in ("train", "validation") for seed in (0, 1)]
    assert all(sorted(order) == items.tolist() for order in orders)
    assert len({tuple(order) for order in orders}) == 4

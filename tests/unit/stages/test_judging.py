"""Whose classes decide: subsets, numbers for names, rows by synset, labels of several classes."""

from __future__ import annotations

import json
import pkgutil

import pytest
import torch
from timm.data import RealLabelsImagenet

from hornet.batch import Batch
from hornet.errors import UserError
from hornet.shards.imagenet import make_layout
from hornet.shards.label_space import LabelSpace, number_classes
from hornet.stages.config import JudgeConfig
from hornet.stages.judging import Judging, find_subset, plan_judging, read_numbers
from hornet.training.measures import Measures

IN1K = make_layout("imagenet-1k")
BY_NAME = JudgeConfig(by_name=True)


def space(*names: str, name: str = "made") -> LabelSpace:
    return LabelSpace(name=name, classes=names)


def make_batch(labels: list[int], keys: list[str] | None = None) -> Batch:
    size = len(labels)
    return Batch(
        images_bchw=torch.zeros(size, 3, 1, 1, dtype=torch.uint8),
        labels=torch.tensor(labels),
        erase_boxes=torch.zeros(size, 4, dtype=torch.int32),
        key_hashes=torch.zeros(size, dtype=torch.int64),
        keys=tuple(keys or [f"s/{n}" for n in range(size)]),
        is_real=torch.ones(size, dtype=torch.bool),
        bad_samples=(),
    )


def plan(of_set: LabelSpace, of_weights: LabelSpace, config: JudgeConfig = BY_NAME) -> Judging:
    return plan_judging(config, of_set=of_set, of_weights=of_weights)


def test_the_packaged_subsets_are_those_that_timm_has_the_numbers_of() -> None:
    for letter in "ar":
        subset = find_subset(f"imagenet-{letter}")
        numbers = (pkgutil.get_data("timm.data", f"_info/imagenet_{letter}_indices.txt") or b"").split()
        assert subset.classes == tuple(IN1K.classes[int(number)] for number in numbers)
        assert len(subset) == 200


def test_a_subset_judges_among_its_own_classes_and_leaves_other_images_out() -> None:
    judging = plan(IN1K, IN1K, JudgeConfig(by_name=True, subset="imagenet-a"))
    subset = find_subset("imagenet-a")
    inside, other = IN1K.labels[subset.classes[7]], IN1K.labels["n01440764"]
    assert "n01440764" not in subset.labels
    logits = torch.zeros(2, 1000)
    logits[:, other] = 9.0  # the highest, and not one of the 200
    logits[:, inside] = 5.0
    judged = judging.judge(logits, make_batch([inside, other]))
    assert judged.is_counted.tolist() == [True, False]
    assert judged.labels[0] == 7
    assert judged.hits[0, 0]
    expected = torch.nn.functional.cross_entropy(
        logits[:1, [IN1K.labels[c] for c in subset.classes]], torch.tensor([7])
    )
    assert judged.losses[0] == pytest.approx(float(expected))


def test_a_set_of_200_folders_needs_no_subset() -> None:
    """Folders of ImageNet-A alone, in the order of their names."""
    subset = find_subset("imagenet-a")
    of_set = LabelSpace(name="imagenet-a", classes=tuple(sorted(subset.classes)))
    judging = plan(of_set, IN1K)
    logits = torch.zeros(1, 1000)
    logits[0, IN1K.labels[of_set.classes[3]]] = 1.0
    assert judging.judge(logits, make_batch([3])).hits[0, 0]


def test_folders_that_are_numbers_do_not_count_in_the_order_of_their_names() -> None:
    folders = space(*sorted(map(str, range(1000))), name="v2")
    assert folders.classes[:4] == ("0", "1", "10", "100")
    judging = plan(folders, IN1K, JudgeConfig(by_name=True, numbers_of="imagenet-1k"))
    logits = torch.zeros(3, 1000)
    for row, number in enumerate((10, 2, 999)):
        logits[row, number] = 1.0
    labels = [folders.classes.index(name) for name in ("10", "2", "999")]
    assert labels[0] == 2
    assert judging.judge(logits, make_batch(labels)).hits[:, 0].all()


def test_numbers_that_are_none_are_named() -> None:
    for strange in ("n01440764", "1000"):
        with pytest.raises(UserError, match=rf"judge\.numbers_of: .* from 0 to 999, .*\({strange}\); leave it out"):
            read_numbers(space("0", strange), IN1K)


def test_22k_weights_are_judged_on_1k_by_synset() -> None:
    all_classes = make_layout("imagenet-22k")
    judging = plan(IN1K, all_classes)
    assert judging.missing == ("n04399382",), "the teddy bear is not in fall11"
    teddy, tench = IN1K.labels["n04399382"], IN1K.labels["n01440764"]
    logits = torch.zeros(2, len(all_classes))
    logits[:, all_classes.labels["n01440764"]] = 3.0
    outside = next(n for n, name in enumerate(all_classes.classes) if name not in IN1K.labels)
    logits[:, outside] = 99.0  # a class of 22K alone does not compete
    judged = judging.judge(logits, make_batch([tench, teddy]))
    assert judged.hits.any(dim=1).tolist() == [True, False]
    assert judged.is_counted.tolist() == [True, True]
    assert judged.has_loss.tolist() == [True, False]
    assert judged.losses[0].isfinite()


def test_released_weights_of_10459_classes_know_all_of_1k() -> None:
    assert plan(IN1K, make_layout("hornet-22k")).missing == ()


def test_a_missing_class_is_missed_and_not_in_the_loss(alone: object) -> None:
    judging = plan(space("cat", "dog", "newt"), space("newt", "cat"))
    counts = Measures(num_classes=3, num_bins=5, num_confusions=5)
    logits = torch.tensor([[0.0, 2.0], [2.0, 0.0], [2.0, 0.0]])
    batch = make_batch([0, 1, 2])  # cat right; dog, which has no row; newt right
    counts.add(judging.judge(logits, batch), num_bad=0)
    found = counts.finish().evaluation
    assert found.num_images == 3
    assert found.top1 == found.top5 == pytest.approx(200 / 3), "of two known classes both are among the five highest"
    expected = torch.nn.functional.cross_entropy(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    assert found.loss == pytest.approx(float(expected))


def test_equal_spaces_take_the_rows_as_they_are() -> None:
    judging = plan(IN1K, IN1K, JudgeConfig())
    assert judging.rows is None
    assert judging.labels is None


@pytest.mark.parametrize(
    ("of_set", "of_weights", "config", "message"),
    [
        (
            IN1K,
            make_layout("imagenet-22k"),
            JudgeConfig(),
            r"evaluation\.shards: .*; or judge\.by_name=true takes each class's row by its name$",
        ),
        (
            number_classes(2),
            IN1K,
            BY_NAME,
            r"judge\.by_name: the classes of the set, 'numbered', are not known; index the set again with",
        ),
        (space("cat"), space("dog"), BY_NAME, r"no class of the weights, 'made' \(1 classes, .*is among those judged"),
        (
            space("cat"),
            IN1K,
            JudgeConfig(by_name=True, subset="imagenet-a"),
            r"no class of the set, 'made' \(1 classes, .*is among those judged, 'imagenet-a' \(200",
        ),
        (
            space("cat"),
            space("cat"),
            JudgeConfig(real_labels=True),
            r"judge\.real_labels: are of imagenet-1k, of which",
        ),
    ],
)
def test_what_cannot_be_judged_is_refused(
    of_set: LabelSpace, of_weights: LabelSpace, config: JudgeConfig, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        plan(of_set, of_weights, config)


@pytest.mark.slow
def test_real_labels_are_found_by_the_images_name_and_equal_timms(alone: object) -> None:
    judging = plan(IN1K, IN1K, JudgeConfig(real_labels=True))
    assert judging.real is not None
    packaged = json.loads(pkgutil.get_data("timm.data", "_info/imagenet_real_labels.json") or b"")
    assert len(judging.real) == 50_000
    numbers = [3, 50_000, 1, 17, 18, 19, 20, 21]
    keys = [f"val-0001/n0144/ILSVRC2012_val_{number:08d}" for number in numbers]
    logits = torch.randn(len(numbers), 1000, generator=torch.Generator().manual_seed(0))
    for row, number in enumerate(numbers[:4]):
        if packaged[number - 1]:
            logits[row, packaged[number - 1][-1]] = 9.0
    batch = make_batch([0] * len(numbers), keys)
    accepted = judging.accept(batch, device=torch.device("cpu"))
    counts = Measures(num_classes=1000, num_bins=5, num_confusions=0)
    counts.add(judging.judge(logits, batch), num_bad=0, accepted=accepted)
    found = counts.finish().multi_label
    assert found is not None
    timms = RealLabelsImagenet([f"ILSVRC2012_val_{n:08d}.JPEG" for n in range(1, 50_001)])
    timms.filenames = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in numbers]
    timms.add_result(logits)
    assert (found.top1, found.top5) == (timms.get_accuracy(1), timms.get_accuracy(5))
    assert found.num_images == sum(bool(packaged[number - 1]) for number in numbers)


def test_real_labels_of_other_numbering() -> None:
    """Judged classes in another order: the packaged numbers are those of imagenet-1k."""
    turned = LabelSpace(name="turned", classes=IN1K.classes[::-1])
    judging = plan(turned, IN1K, JudgeConfig(by_name=True, real_labels=True))
    same = plan(IN1K, IN1K, JudgeConfig(real_labels=True))
    assert judging.real is not None
    assert same.real is not None
    assert judging.real[0] == tuple(999 - label for label in same.real[0])


@pytest.mark.parametrize("key", ["train/n01440764_10026", "v/ILSVRC2012_val_00050001", "v/ILSVRC2012_val_00000000"])
def test_an_image_of_another_set_has_no_real_labels(key: str) -> None:
    judging = plan(IN1K, IN1K, JudgeConfig(real_labels=True))
    with pytest.raises(
        UserError, match=rf"judge\.real_labels: the image {key} is not named ILSVRC2012_val_00000001 to"
    ):
        judging.accept(make_batch([0], [key]), device=torch.device("cpu"))

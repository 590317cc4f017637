"""Label spaces that do not fit are refused wherever they meet, with both names and what to do."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from hornet.errors import UserError
from hornet.shards.imagenet import make_layout
from hornet.shards.label_space import LabelSpace, number_classes
from hornet.shards.manifest import Manifest, write_manifest
from hornet.shards.split_writing import open_set
from hornet.stages.classification import require_labels_of_checkpoint, require_same_labels
from hornet.stages.pretrained import Pretrained, require_head_of
from hornet.training.checkpoints.checkpoint import Checkpoint


def rename(space: LabelSpace, name: str) -> LabelSpace:
    return LabelSpace(name=name, classes=space.classes)


PETS = LabelSpace(name="pets", classes=("cat", "dog"))


@pytest.mark.parametrize(
    ("evaluated", "trained", "message"),
    [
        (
            make_layout("imagenet-1k"),
            make_layout("imagenet-22k"),
            r"its labels are of 'imagenet-1k' \(1000 classes, fingerprint 385e0240499426c0\), those trained on of "
            r"'imagenet-22k' \(21841 classes, fingerprint 6320b72b72e43c09\): 999 of its 1000 classes are among the "
            r"21841; "
            r"`python launch/shards.py subset SET OUTPUT --classes imagenet-22k` numbers them alike, without copies",
        ),
        (
            make_layout("imagenet-21k-goog"),
            rename(make_layout("imagenet-22k"), "archive"),
            r"trained on of 'archive' \(21841 classes, those of imagenet-22k, .*--classes imagenet-22k` numbers",
        ),
        (
            LabelSpace(name="sorted", classes=("dog", "cat")),
            PETS,
            r"the same classes in another order; `.* --classes FOLDER` \(the folder of 'pets'\) numbers",
        ),
        (make_layout("imagenet-1k"), PETS, "they have no class in common; give a set of the same classes"),
        (
            number_classes(1000),
            make_layout("imagenet-22k"),
            r"the classes of 'numbered' are not known; index its set again with `--classes NAME\|FILE` "
            r"\(label spaces of 1000 classes: imagenet-1k\)",
        ),
    ],
)
def test_evaluation_on_other_labels(evaluated: LabelSpace, trained: LabelSpace, message: str) -> None:
    with pytest.raises(UserError, match=f"^evaluation.shards: .*{message}"):
        require_same_labels(evaluated, trained)


def test_equal_classes_are_the_same_labels_whatever_their_name() -> None:
    require_same_labels(rename(PETS, "animals"), PETS)


def checkpoint_of(space: LabelSpace) -> Checkpoint:
    return Checkpoint(
        folder=Path("runs/a/checkpoints/step_00000003"),
        step=3,
        identity={},
        description={"label_space": space.to_json()},
        state={},
    )


def test_a_run_that_goes_on_keeps_its_labels() -> None:
    require_labels_of_checkpoint(checkpoint_of(PETS), rename(PETS, "animals"))
    with pytest.raises(
        UserError,
        match=r"data\.shards: its labels are of 'imagenet-1k' \(1000 .*, but runs/a/checkpoints/step_00000003 was "
        r"trained on 'pets' \(2 .*; go on with that set, or finetune under another run\.name with start\.from=runs/a$",
    ):
        require_labels_of_checkpoint(checkpoint_of(PETS), make_layout("imagenet-1k"))
    segmenter = checkpoint_of(PETS)
    segmenter = dataclasses.replace(segmenter, description={**segmenter.description, "task": "semantic segmentation"})
    with pytest.raises(UserError, match=r"go on with that set, or choose another run\.name$"):
        require_labels_of_checkpoint(segmenter, make_layout("imagenet-1k"))


def weights_of(num_rows: int | None) -> Pretrained:
    state = {} if num_rows is None else {"head.weight": torch.zeros(num_rows, 1)}
    return Pretrained(state_dict=state, label_space=None, description={}, source="x.pth")


def test_a_head_of_another_size_is_told_what_it_may_be() -> None:
    require_head_of(weights_of(2), PETS)
    with pytest.raises(
        UserError,
        match=r"x\.pth: its head has 10459 rows \(label spaces of 10459 classes: hornet-22k\), not those of 'pets' ",
    ):
        require_head_of(weights_of(10_459), PETS)
    with pytest.raises(UserError, match=r"x\.pth: holds no head \(head\.weight\), so it cannot classify; finetune it"):
        require_head_of(weights_of(None), PETS)


def test_a_split_of_other_labels_does_not_go_into_a_set(tmp_path: Path) -> None:
    write_manifest(Manifest(path=tmp_path / "_info.json", name="pets", label_space=PETS, splits={}))
    open_set(tmp_path, name="pets", label_space=rename(PETS, "animals"))
    with pytest.raises(
        UserError,
        match=r"_info\.json: its label space 'pets' \(2 classes.* is not that of the new split, 'imagenet-1k' .*; "
        r"all splits of a set share one: give both the same --classes",
    ):
        open_set(tmp_path, name="pets", label_space=make_layout("imagenet-1k"))

"""Composed scenes as COCO's annotations: each cut-out where the image shows it, and a set made of them."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from hornet.shards.build.build import build
from hornet.shards.build.scene_objects import Scene, describe_objects
from hornet.shards.build.scenes import SceneOptions, write_scenes
from tests.unit.shards.coco_set import plan


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Red and blue discs on grey."""
    folder = tmp_path_factory.mktemp("scenes")
    rows, columns = np.ogrid[:40, :40]
    inside = (rows - 20) ** 2 + (columns - 20) ** 2 < 300
    for name, colour in (("red", (255, 0, 0, 255)), ("blue", (0, 0, 255, 255))):
        disc = np.zeros((40, 40, 4), np.uint8)
        disc[inside] = colour
        (folder / "objects" / name).mkdir(parents=True)
        for number in range(12):
            Image.fromarray(disc).save(folder / "objects" / name / f"{name}_{number}.png")
    (folder / "grey").mkdir()
    for number in range(12):
        Image.new("RGB", (60, 60), (128, 128, 128)).save(folder / "grey" / f"grey_{number}.png")
    options = SceneOptions(num_training=6, num_validation=2, size=64, max_objects=3)
    write_scenes(folder / "out", options, objects=folder / "objects", backgrounds=folder / "grey")
    return folder / "out"


@pytest.mark.parametrize(("split", "count"), [("training", 6), ("validation", 2)])
def test_each_object_is_where_the_mask_of_classes_has_it(scenes, split, count, capsys):
    coco = COCO(scenes / f"annotations/instances_{split}.json")
    assert [coco.cats[number]["name"] for number in (1, 2)] == ["blue", "red"]
    assert len(coco.imgs) == count
    for image in coco.imgs.values():
        classes = np.asarray(Image.open(scenes / "annotations" / split / image["file_name"]))
        seen = np.zeros_like(classes)
        for one in coco.imgToAnns[image["id"]]:
            mask = coco.annToMask(one)
            assert not (seen[mask == 1]).any(), "no pixel is of two objects"
            seen[mask == 1] = one["category_id"]
            rows, columns = np.nonzero(mask)
            left, top, width, height = one["bbox"]
            assert (left, top, left + width, top + height) == (
                columns.min(),
                rows.min(),
                columns.max() + 1,
                rows.max() + 1,
            )
            assert one["area"] == mask.sum()
        assert (seen == classes).all()


def test_an_object_that_is_all_covered_is_none_and_two_of_a_class_are_two():
    owners = np.array([[0, 3, 3], [1, 1, 3]], np.int16)
    scene = Scene(image=Image.new("RGB", (3, 2)), owners=owners, labels=(5, 4, 5))
    assert scene.classes.tolist() == [[0, 5, 5], [5, 5, 5]]
    first, second = describe_objects(scene)
    assert (first["bbox"], first["area"], first["segmentation"]["counts"]) == ([0, 1, 2, 1], 2, [1, 1, 1, 1, 2])
    assert (second["bbox"], second["area"], second["category_id"]) == ([1, 0, 2, 2], 3, 5)


def test_scenes_become_a_set_with_masks_or_with_objects(scenes, tmp_path):
    classes = str(scenes / "classes.txt")
    changes = {"source_split": "training", "name": "scenes"}
    masks = build(plan(scenes, output=tmp_path / "masks", classes=classes, **changes))
    told = "holds objects too (instances_training.json, instances_validation.json), which --layout coco reads"
    assert any(told in remark for remark in masks.remarks)
    objects = build(plan(scenes, output=tmp_path / "objects", layout="coco", **changes))
    assert objects.manifest.label_space.classes == masks.manifest.label_space.classes == ("background", "blue", "red")
    assert objects.manifest.splits["train"].num_samples == 6
    assert objects.dropped == {}
    listed = json.loads((scenes / "annotations/instances_training.json").read_text())
    assert [one["id"] for one in listed["annotations"]] == [*range(1, len(listed["annotations"]) + 1)]

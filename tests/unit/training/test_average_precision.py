"""AP against pycocotools on made images, and the same on any number of ranks."""

import builtins
import contextlib
import dataclasses
import io
import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hornet.data.instances import open_instance_evaluation
from hornet.data.instances_config import InstanceEvaluationConfig
from hornet.errors import UserError
from hornet.shards.build.build import build
from hornet.shards.shard_set import open_shards
from hornet.training import average_precision
from hornet.training.average_precision import AveragePrecision
from hornet.training.detection_results import DetectionResults, read_category_ids
from hornet.world import ALONE
from tests.unit.shards.coco_set import plan, write_coco

NUM_CLASSES = 4
STATS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", None, None, "ar")


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """The annotations' file and what evaluation reads of the set that is built of it."""
    folder = tmp_path_factory.mktemp("squares")

    def change(listed):
        for number, one in enumerate(listed["annotations"], start=1):
            one["id"] = number  # pycocotools takes 0 for none

    source = write_coco(folder / "source", num_images=12, change=change)
    build(plan(source, split="validation", samples_per_shard=5))
    config = InstanceEvaluationConfig(shards=folder / "set", index=folder / "index", short_edge=32, max_long_edge=80)
    truths = [batch.instances[0] for batch in open_instance_evaluation(config, world=ALONE).iterate()]
    ids = open_shards(folder / "set", "validation").split.origin["category_ids"]
    return source / "annotations/instances_train2017.json", truths, ids


def detect(truth, seed=0):
    """Detections that are near the truth, twice there, of another class, or nowhere; some of equal scores."""
    random = np.random.default_rng([seed, truth.image_id])
    height, width = truth.original_size
    coco = COCO()
    boxes, scores, labels, masks = [], [], [], []
    listed = json.loads(truth.annotations)["annotations"]
    for one in listed * 2 + [None] * 2:
        mask = np.zeros((height, width), np.uint8)
        if one is None:
            top, left = random.integers(0, 20, 2)
            mask[top : top + 15, left : left + 12] = 1
            label = int(random.integers(1, NUM_CLASSES))
        else:
            coco.imgs = {truth.image_id: {"height": height, "width": width}}
            mask = np.roll(coco.annToMask(one | {"image_id": truth.image_id}), random.integers(-3, 4, 2), (0, 1))
            label = one["category"] if random.random() < 0.8 else int(random.integers(1, NUM_CLASSES))
        left, top, box_width, box_height = coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask)))
        boxes.append([left, top, left + box_width, top + box_height])
        scores.append(round(float(random.random()), 1))
        labels.append(label)
        masks.append(mask)
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32),
        "scores": torch.tensor(scores),
        "labels": torch.tensor(labels),
        "masks": torch.from_numpy(np.stack(masks)).bool(),
    }


def count(truths, detect=detect):
    found = AveragePrecision(NUM_CLASSES)
    for truth in truths:
        found.add(truth, **detect(truth))
    return found


def run_pycocotools(file, results, kind):
    with contextlib.redirect_stdout(io.StringIO()):
        listed = COCO(file)
        counted = COCOeval(listed, listed.loadRes(results), kind)
        counted.evaluate()
        counted.accumulate()
        counted.summarize()
    return counted


def measure_with_pycocotools(file, truths, ids, kind):
    results = []
    for truth in truths:
        found = detect(truth)
        for box, score, label, mask in zip(
            *(found[key] for key in ("boxes", "scores", "labels", "masks")), strict=True
        ):
            left, top, right, bottom = box.tolist()
            place = (
                {"bbox": [left, top, right - left, bottom - top]}
                if kind == "bbox"
                else {"segmentation": coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))}
            )
            results.append({"image_id": truth.image_id, "category_id": ids[label - 1], "score": score.item(), **place})
    counted = run_pycocotools(file, results, kind)
    classes = [values[values > -1] for values in counted.eval["precision"][:, :, :, 0, -1].transpose(2, 0, 1)]
    return counted.stats, [100 * values.mean() if values.size else None for values in classes]


@pytest.mark.parametrize(("kind", "name"), [("segm", "mask"), ("bbox", "box")])
def test_against_pycocotools(alone, squares, kind, name):
    """Crowds, runs beside polygons, gaps in the ids, images without annotations; from file to shards to result."""
    file, truths, ids = squares
    stats, of_class = measure_with_pycocotools(file, truths, ids, kind)
    found = count(truths).finish()
    for value, measure in zip(stats, STATS, strict=False):
        if measure is not None:
            mine = getattr(found, f"{name}_{measure}")
            assert (-1 if mine is None else mine / 100) == pytest.approx(value, abs=1e-12), measure
    assert getattr(found, f"class_{name}_ap") == pytest.approx(tuple(of_class), abs=1e-10)
    assert found.num_images == 12
    assert 10 < getattr(found, f"{name}_ap50") < 90


@pytest.mark.parametrize(("kind", "name"), [("segm", "mask"), ("bbox", "box")])
def test_pycocotools_finds_in_the_written_results_what_is_told(alone, squares, tmp_path, kind, name):
    """All of it, of small, medium and large objects too, with the ids of the file."""
    file, truths, ids = squares
    assert ids == [1, 3, 90]
    counted = count(truths)
    found = counted.finish()
    results = DetectionResults(folder=tmp_path / "new/results", category_ids=ids)
    results.prepare()
    results.write(counted.gathered)
    path = tmp_path / f"new/results/{kind}.json"
    for value, measure in zip(run_pycocotools(file, str(path), kind).stats, STATS, strict=False):
        if measure is not None:
            mine = getattr(found, f"{name}_{measure}")
            assert (-1 if mine is None else mine / 100) == pytest.approx(value, abs=1e-12), measure
    rows = json.loads(path.read_text())
    place = {"segm": "segmentation", "bbox": "bbox"}[kind]
    assert {tuple(row) for row in rows} == {("image_id", "category_id", "score", place)}
    assert {row["category_id"] for row in rows} == {1, 3, 90}
    per_image = {truth.image_id: len(detect(truth)["scores"]) for truth in truths}
    assert {number: sum(row["image_id"] == number for row in rows) for number in per_image} == per_image
    assert {one.name for one in path.parent.iterdir()} == {"bbox.json", "segm.json"}


def test_results_of_nothing_found_are_an_empty_list(tmp_path):
    results = DetectionResults(folder=tmp_path, category_ids=(1,))
    results.write([])
    assert json.loads((tmp_path / "bbox.json").read_text()) == []


def test_results_that_cannot_be_written_leave_what_was_there(alone, squares, tmp_path):
    _, truths, ids = squares
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"results: .*file/x cannot be written \(Not a directory\); name another folder"
    ):
        DetectionResults(folder=tmp_path / "file/x", category_ids=ids).prepare()
    counted = count(truths[:1] * 2)
    counted.finish()
    (tmp_path / "bbox.json").write_text("before")
    with pytest.raises(UserError, match=r"results: two images of the set have the id \d+"):
        DetectionResults(folder=tmp_path, category_ids=ids).write(counted.gathered)
    broken = [
        dataclasses.replace(counted.gathered[0], found=[{"category_id": 1, "score": 0.5, "bbox": [float("nan")]}])
    ]
    with pytest.raises(ValueError, match="JSON"):
        DetectionResults(folder=tmp_path, category_ids=ids).write(broken)
    assert {one.name: one.read_text() for one in tmp_path.iterdir()} == {"file": "", "bbox.json": "before"}


@pytest.mark.parametrize("origin", [{}, {"category_ids": [1, 3]}, {"category_ids": [1, "3", 90]}, {"category_ids": 3}])
def test_a_set_that_does_not_say_its_categories_ids_is_refused(origin):
    with pytest.raises(
        UserError, match=r"results: the manifest of squares does not say .* its 3 classes .*build the set"
    ):
        read_category_ids(origin, num_classes=NUM_CLASSES, name="squares")


def test_two_ranks_in_any_order_count_what_one_counts(alone, squares, monkeypatch):
    _, truths, _ = squares
    whole = count(truths).finish()
    first, second = count(truths[0::2]), count(truths[1::2][::-1])
    monkeypatch.setattr(average_precision, "gather_from_all", lambda images: [images, second._images])
    assert first.finish() == whole
    assert [one.image_id for one in first.gathered] == sorted(truth.image_id for truth in truths), "each once, in order"


def test_the_truth_as_detections_is_all_right(alone, squares):
    _, truths, _ = squares

    def know(truth):
        height, width = truth.original_size
        scale = torch.tensor([width / truth.size[1], height / truth.size[0]] * 2)
        things = json.loads(truth.annotations)["annotations"]
        coco = COCO()
        coco.imgs = {1: {"height": height, "width": width}}
        masks = [coco.annToMask(one | {"image_id": 1}) for one in things]
        return {
            "boxes": truth.boxes * scale,
            "scores": torch.ones(len(things)),
            "labels": truth.labels,
            "masks": torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, height, width),
        }

    found = count(truths, know).finish()
    assert (found.mask_ap, found.box_ap, found.mask_ar) == (100, 100, 100)
    assert found.class_mask_ap == (100, 100, 100)


def test_nothing_found_is_0_and_nothing_to_find_is_told(alone, squares):
    _, truths, _ = squares

    def find_nothing(truth):
        return {
            "boxes": torch.zeros(0, 4),
            "scores": torch.zeros(0),
            "labels": torch.zeros(0, dtype=torch.int64),
            "masks": torch.zeros(0, *truth.original_size),
        }

    found = count(truths, find_nothing).finish()
    assert (found.mask_ap, found.box_ap, found.class_mask_ap) == (0, 0, (0, 0, 0))
    negatives = [truth for truth in truths if not len(truth.labels)]
    counted = count(negatives)
    counted.add_bad(2)
    found = counted.finish()
    assert (found.mask_ap, found.num_images, found.num_bad_images) == (0, 3, 2)
    assert found.class_box_ap == (None, None, None)
    assert AveragePrecision(NUM_CLASSES).finish().num_images == 0


def test_masks_of_another_size_are_a_mistake(squares):
    _, truths, _ = squares
    found = detect(truths[0])
    with pytest.raises(ValueError, match="masks of shape"):
        AveragePrecision(NUM_CLASSES).add(truths[0], **(found | {"masks": found["masks"][:, :-1]}))


def test_a_missing_library_is_named(monkeypatch):
    real = builtins.__import__

    def fail(name, *arguments, **keywords):
        if name == "faster_coco_eval":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(
        UserError, match=r"not installed \(faster_coco_eval\); run `pip install 'faster-coco-eval>=1.7'`"
    ):
        AveragePrecision(NUM_CLASSES)

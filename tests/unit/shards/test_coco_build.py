"""Sets of images with objects: COCO's layout to shards; what is wrong with annotations, counted, named or refused."""

import dataclasses
import json
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from hornet.errors import UserError
from hornet.shards.build.build import build
from hornet.shards.build.image import ImageOptions
from hornet.shards.instances import parse_instances
from hornet.shards.shard_set import open_shards
from hornet.shards.views.subset import SubsetPlan, make_subset
from tests.unit.shards.coco_set import outline, plan, write_coco


def read_members(folder):
    members = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            members |= {member.name: tar.extractfile(member).read() for member in tar}
    return members


def read_notes(report):
    return {note["name"]: note["reason"] for path in report.notes for note in map(json.loads, path.open())}


def test_coco_becomes_a_set_of_images_with_objects_and_negatives_are_kept(tmp_path):
    source = write_coco(tmp_path / "coco")
    report = build(plan(source))
    members = read_members(tmp_path / "set")
    listed = json.loads((source / "annotations/instances_train2017.json").read_text())
    assert len(members) == 27
    label_of = {1: 1, 3: 2, 90: 3}
    for image in listed["images"]:
        stem = f"train2017/{image['file_name'][:-4]}"
        assert members[f"{stem}.png"] == (source / "train2017" / image["file_name"]).read_bytes()
        value = json.loads(members[f"{stem}.instances.json"])
        wanted = [one for one in listed["annotations"] if one["image_id"] == image["id"]]
        assert (value["image_id"], value["height"], value["width"]) == (image["id"], image["height"], image["width"])
        assert value["annotations"] == [
            {
                "id": one["id"],
                "category": label_of[one["category_id"]],
                **{key: one[key] for key in ("bbox", "area", "iscrowd", "segmentation")},
            }
            for one in wanted
        ]
        areas = np.bincount(
            [label_of[one["category_id"]] for one in wanted], [one["area"] for one in wanted], minlength=4
        )
        assert int(members[f"{stem}.cls"]) == (areas.argmax() if wanted else 0)
    assert report.manifest.label_space.classes == ("background", "red", "green", "blue")
    assert report.manifest.splits["train"].origin["category_ids"] == [1, 3, 90]
    assert open_shards(tmp_path / "set", "train").split.class_counts[0] == 2, "images without annotations"


def test_the_split_the_file_and_the_folder_can_be_named(tmp_path):
    write_coco(tmp_path / "coco", num_images=3)
    source = write_coco(tmp_path / "coco", num_images=2, split="val2017")
    with pytest.raises(UserError, match="has the splits train2017, val2017; choose one with --source-split"):
        build(plan(source))
    with pytest.raises(UserError, match=r"instances_test.json: is no file; the splits there are train2017, val2017"):
        build(plan(source, source_split="test"))
    build(plan(source, source_split="train2017"))
    report = build(plan(source, source_split="val2017", split="validation"))
    assert {name: split.num_samples for name, split in report.manifest.splits.items()} == {"train": 3, "validation": 2}
    shutil.move(source / "val2017", tmp_path / "images")
    elsewhere = {"annotations": source / "annotations/instances_val2017.json", "output": tmp_path / "other"}
    with pytest.raises(UserError, match="where its images lie is not known; name the folder with --images"):
        build(plan(source, **elsewhere))
    with pytest.raises(UserError, match="none: is no folder; --images names the one that holds"):
        build(plan(source, **elsewhere, image_folder=tmp_path / "none"))
    build(plan(source, **elsewhere, image_folder=tmp_path / "images"))
    assert "images/000000000000.instances.json" in read_members(tmp_path / "other")


def test_images_may_lie_in_a_folder_of_the_split_below_images(tmp_path):
    source = write_coco(tmp_path / "coco", num_images=2)
    (source / "images").mkdir()
    shutil.move(source / "train2017", source / "images/train2017")
    assert build(plan(source)).manifest.splits["train"].num_samples == 2


def test_a_folder_with_masks_of_classes_too_is_taken_for_those_unless_asked(tmp_path):
    source = write_coco(tmp_path / "coco", num_images=2)
    (source / "images").mkdir()
    shutil.move(source / "train2017", source / "images/train2017")
    (source / "annotations/train2017").mkdir()
    Image.new("L", (60, 40)).save(source / "annotations/train2017/000000000000.png")
    with pytest.raises(UserError, match="1 of 2 images have no mask"):
        build(plan(source, source_split="train2017"))
    assert build(plan(source, source_split="train2017", layout="coco")).manifest.splits["train"].num_samples == 2


def spoil(field, value, *, position=0):
    """Change a field of the first annotation of polygons."""

    def change(listed):
        polygons = [one for one in listed["annotations"] if isinstance(one["segmentation"], list)]
        polygons[position][field] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda listed: listed["images"][0].update(width=61),
            "its annotations are for 61 x 40 pixels, the image has 60 x 40; they must be the same",
        ),
        (
            spoil("segmentation", {"size": [40, 61], "counts": [2440]}),
            "annotation 0: segmentation is of size [40, 61], the image of [40, 60] (height, width); they must be the "
            "same",
        ),
        (
            spoil("segmentation", {"size": [10**9, 10**9], "counts": [10**18]}),
            "annotation 0: segmentation is of size [1000000000, 1000000000], the image of [40, 60]",
        ),
        (
            spoil("segmentation", {"size": [40, 60], "counts": [10**18]}),
            "annotation 0: segmentation has runs that are not whole numbers from 0 to 2400, the pixels of the image",
        ),
        (
            spoil("segmentation", {"size": [40, 60], "counts": [2000, 401]}),
            "annotation 0: segmentation has runs of 2401 pixels together, the image has 2400",
        ),
        (spoil("segmentation", {"size": [40, 60], "counts": "~"}), "has runs in text that is not COCO's"),
        (spoil("segmentation", {"size": [40, 60], "counts": "P"}), "has runs in text that ends within one"),
        (
            spoil("segmentation", []),
            "segmentation is neither polygons nor runs (RLE); a mask is needed for each object",
        ),
        (spoil("segmentation", [[0, 0, 1e12, 0, 9, 9]]), "has a polygon that reaches far outside of the image"),
        (spoil("segmentation", [[0, 0, 5]]), "has a polygon that is no list x, y, x, y, ..."),
        (spoil("segmentation", [[0, 0, 5, "a", 9, 9]]), "has a polygon with 'a' in place of a coordinate"),
        (
            spoil("segmentation", [[0, 0, 59, 39] * 20_000]),
            "has outlines of more than 262144 pixels together",
        ),
        (spoil("bbox", [1, 2, 3]), "annotation 0: bbox must be 4 numbers, not '[1, 2, 3]'"),
        (spoil("bbox", [1, 2, float("nan"), 3]), "annotation 0: bbox must be finite numbers, not 'nan'"),
        (spoil("iscrowd", 2), "annotation 0: iscrowd must be 0 or 1, not 2"),
    ],
)
def test_images_whose_annotations_cannot_be_used_are_counted_and_named(tmp_path, change, reason):
    source = write_coco(tmp_path / "coco", num_images=2, change=change)
    report = build(plan(source))
    assert report.dropped == {"instances": 1}
    assert reason in read_notes(report)["000000000000.png"]
    assert report.manifest.splits["train"].num_samples == 1


def test_objects_without_a_pixel_are_left_out_and_named_and_their_image_stays(tmp_path):
    def change(listed):
        spoil("bbox", [4, 5, 0, 10])(listed)
        spoil("segmentation", [[4, 5, 9, 5]], position=1)(listed)

    report = build(plan(write_coco(tmp_path / "coco", num_images=3, change=change)))
    assert (report.mended, report.dropped) == (2, {})
    notes = read_notes(report)
    assert notes["000000000000.png"] == "1 annotations without a pixel were left out, with the ids [0]"
    assert notes["000000000001.png"] == "1 annotations without a pixel were left out, with the ids [100]"
    members = read_members(tmp_path / "set")
    value = json.loads(members["train2017/000000000000.instances.json"])
    assert sorted(one["id"] for one in value["annotations"]) == [1, 2]


def test_images_that_are_shown_turned_are_named(tmp_path):
    """Whoever marked them may have seen them so; sizes tell of a quarter turn, and nothing of a half."""
    source = write_coco(tmp_path / "coco", num_images=3)
    for number, orientation in ((0, 3), (1, 6)):
        path = source / f"train2017/{number:012d}.png"
        image = Image.open(path)
        image.load()
        exif = image.getexif()
        exif[0x0112] = orientation
        (image.transpose(Image.Transpose.ROTATE_90) if orientation == 6 else image).save(path, exif=exif)
    report = build(plan(source))
    assert (report.dropped, report.mended) == ({"instances": 1}, 1)
    notes = read_notes(report)
    told = (
        "its EXIF data turn or mirror it where it is shown (orientation {}), which nothing here does; what is "
        "marked in it must be so in the pixels as they are stored"
    )
    assert notes["000000000000.png"] == told.format(3)
    assert notes["000000000001.png"].startswith("its annotations are for 60 x 43 pixels, the image has 43 x 60; they")
    assert notes["000000000001.png"].endswith(told.format(6))


def test_area_crowd_and_size_that_are_not_there_are_filled_in(tmp_path):
    def change(listed):
        for one in listed["annotations"]:
            one.pop("area")
            if not one["iscrowd"]:
                one.pop("iscrowd")
        for image in listed["images"]:
            del image["width"], image["height"]

    build(plan(write_coco(tmp_path / "coco", num_images=1, change=change)))
    found = parse_instances(read_members(tmp_path / "set")["train2017/000000000000.instances.json"], num_classes=4)
    assert (found.height, found.width) == (40, 60)
    assert {one.id: (one.area, one.is_crowd) for one in found.annotations}[0] == (200.0, False)
    assert sum(one.is_crowd for one in found.annotations) == 1


def test_images_that_are_missing_and_annotations_without_images_are_refused_or_left_out(tmp_path):
    def change(listed):
        listed["annotations"].append(outline((1, 1, 5, 5), number=999, image_id=4711, category_id=3))

    source = write_coco(tmp_path / "coco", num_images=3, change=change)
    with pytest.raises(
        UserError,
        match=r"1 annotations are of images that `images` does not list, the first is 999 of image 4711; add the ",
    ):
        build(plan(source))
    (source / "train2017/000000000002.png").rename(source / "train2017/left.png")
    with pytest.raises(UserError, match=r"1 annotations are of images"):
        build(plan(source))
    report = build(plan(source, incomplete="skip"))
    assert report.manifest.splits["train"].num_samples == 2
    told = "\n".join(report.remarks)
    assert (
        "1 annotations are of images that `images` does not list, 999 of image 4711 for one; they were left out" in told
    )
    assert "1 listed images are not there, '000000000002.png' for one" in told
    assert "1 images are not listed in instances_train2017.json and were left out, 'left.png' for one" in told


def test_a_listed_image_that_is_not_there_is_refused(tmp_path):
    source = write_coco(tmp_path / "coco", num_images=3)
    (source / "train2017/000000000002.png").unlink()
    with pytest.raises(UserError, match=r"1 of its 3 images are not in .*train2017, the first is '000000000002.png'"):
        build(plan(source))


def twice(kind, **changes):
    return lambda listed: listed[kind].append(listed[kind][0] | changes)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (twice("images", file_name="b.png"), r"two images have the id 7 \('000000000000.png' and 'b.png'\)"),
        (twice("images", id=8), "two images have the file_name '000000000000.png'"),
        (twice("categories", name="other"), "two categories have the id 90; each must have its own"),
        (twice("categories", id=5), "two categories have the name 'blue'; each must have its own"),
        (
            lambda listed: listed["categories"].append({"id": 5, "name": "background"}),
            "names a category 'background', which is what no object is",
        ),
        (lambda listed: listed["categories"].clear(), "names no categories; they are the classes of the objects"),
        (
            lambda listed: listed["categories"].pop(),
            r"annotation 2 is of category 3, which `categories` does not name; add it there, or remove the annotation",
        ),
        (
            lambda listed: listed["images"][0].update(file_name="../a.png"),
            r"file_name '../a.png' does not lie below the folder of the images",
        ),
        (lambda listed: listed["images"][0].pop("id"), "has an image whose id is not a whole number"),
        (lambda listed: listed["annotations"].append(5), "has an annotation whose id is not a whole number: 5"),
        (
            lambda listed: listed.pop("categories"),
            "is without categories and not COCO's annotations of objects; a file",
        ),
    ],
)
def test_annotations_that_leave_open_what_is_meant_are_refused(tmp_path, change, sentence):
    source = write_coco(tmp_path / "coco", num_images=1, change=change)
    with pytest.raises(UserError, match=sentence):
        build(plan(source))


def test_a_file_that_is_no_json_or_a_list_of_results_is_refused(tmp_path):
    source = write_coco(tmp_path / "coco", num_images=1)
    file = source / "annotations/instances_train2017.json"
    file.write_text("[]")
    with pytest.raises(UserError, match="is a list, as results are, and not COCO's annotations of objects"):
        build(plan(source))
    file.write_text("{")
    with pytest.raises(UserError, match=r"is no JSON \(.*\); a file of COCO's kind is an object with the lists images"):
        build(plan(source))


def test_options_without_meaning_for_objects_are_refused(tmp_path):
    source = write_coco(tmp_path / "coco", num_images=1)
    (tmp_path / "names.txt").write_text("a\nb\n")
    for changes, sentence in [
        ({"classes": str(tmp_path / "names.txt")}, "--classes has no meaning for a source of layout coco"),
        (
            {"image": ImageOptions(max_short_edge=10)},
            "--max-short-edge: would change the image and not its mask or obj",
        ),
        ({"reduce_zero_label": True}, "--reduce-zero-label has no meaning without masks"),
        ({"layout": "masks"}, "has no folders images/ and annotations/"),
    ]:
        with pytest.raises(UserError, match=sentence):
            build(plan(source, **changes))


def test_splits_of_other_categories_do_not_share_a_set(tmp_path):
    source = write_coco(tmp_path / "coco", num_images=1)
    write_coco(tmp_path / "coco", num_images=1, split="val", change=lambda listed: listed["categories"].reverse())
    write_coco(
        tmp_path / "coco",
        num_images=1,
        split="test",
        change=lambda listed: listed["categories"].append({"id": 4, "name": "more"}),
    )
    build(plan(source, source_split="train2017"))
    build(plan(source, source_split="val", split="validation"))
    with pytest.raises(UserError, match="its 4 categories are not those of the set's other splits"):
        build(plan(source, source_split="test", split="test"))


def test_a_subset_keeps_the_ids_and_takes_no_other_classes(tmp_path):
    build(plan(write_coco(tmp_path / "coco", num_images=4)))
    (tmp_path / "names.txt").write_text("background\nred\n")
    chosen = SubsetPlan(
        source=tmp_path / "set",
        output=tmp_path / "part",
        name="part",
        split=None,
        classes=None,
        fraction=0.5,
        per_class=None,
        seed=0,
        allow_empty_classes=True,
        exclude=None,
        allow_unmatched=False,
    )
    with pytest.raises(UserError, match=r"--classes: the objects of .* are numbered by its own classes"):
        make_subset(dataclasses.replace(chosen, classes=str(tmp_path / "names.txt")))
    assert make_subset(chosen).manifest.splits["train"].origin["category_ids"] == [1, 3, 90]


def test_a_stopped_build_goes_on_and_another_file_begins_anew(tmp_path):
    source = write_coco(tmp_path / "coco", num_images=5)
    shutil.move(source / "train2017/000000000004.png", tmp_path)
    with pytest.raises(UserError, match="1 of its 5 images"):
        build(plan(source))
    shutil.move(tmp_path / "000000000004.png", source / "train2017")
    assert build(plan(source)).manifest.splits["train"].num_samples == 5
    assert build(plan(source)).was_complete

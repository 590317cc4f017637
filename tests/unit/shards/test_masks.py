"""Sets of images with masks: ADE20K's layout to shards, and what is wrong with masks, counted and named."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from hornet.errors import UserError
from hornet.shards.build.build import build
from hornet.shards.build.image import DroppedImageError, ImageOptions
from hornet.shards.build.masks import MaskRule, prepare_mask
from hornet.shards.build.plan import BuildPlan
from hornet.shards.build.scenes import SceneOptions, write_scenes
from hornet.shards.decode import UndecodableImageError
from hornet.shards.label_space import LabelSpace
from hornet.shards.mask import IGNORED, decode_mask, encode_mask
from hornet.shards.shard_set import open_shards
from tests.unit.shards.making import encode, make_image

SPACE = LabelSpace(name="things", classes=("sky", "tree", "road"))


def put(folder, name, values, *, split="training", size=None):
    """An image of the values' size, or another, and its mask; None for no mask."""
    values = None if values is None else np.asarray(values)
    height, width = (20, 26) if values is None else values.shape[:2]
    width, height = size or (width, height)
    for kind in ("images", "annotations"):
        (folder / kind / split).mkdir(parents=True, exist_ok=True)
    (folder / "images" / split / f"{name}.jpg").write_bytes(encode(make_image(3, width=width, height=height), "JPEG"))
    if values is not None:
        Image.fromarray(values).save(folder / "annotations" / split / f"{name}.png")


def filled(value, *, height=20, width=26, dtype=np.uint8):
    values = np.full((height, width), value, dtype)
    values[0, 0] = 0
    return values


@pytest.fixture
def source(tmp_path):
    for number in range(6):
        put(tmp_path / "ade", f"ADE_{number}", filled(number % 3 + 1))
    (tmp_path / "classes.txt").write_text("sky\ntree\nroad\n")
    return tmp_path / "ade"


def plan(source, **changes):
    values = {
        "source": source,
        "output": source.parent / "set",
        "name": "ade",
        "source_split": "training",
        "classes": str(source.parent / "classes.txt"),
        "reduce_zero_label": True,
        "num_workers": 1,
    }
    return BuildPlan(**(values | changes))


def read_members(path):
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def test_ade20k_becomes_a_set_of_images_masks_and_the_class_of_most_pixels(source):
    report = build(plan(source))
    members = read_members(source.parent / "set" / "ade-train-000000.tar")
    assert len(members) == 18
    for number in range(6):
        stem = f"training/ADE_{number}"
        mask = np.asarray(Image.open(io.BytesIO(members[f"{stem}.seg.png"])))
        assert mask[0, 0] == 255, "0 of ADE20K is no class"
        assert set(mask.flatten()[1:].tolist()) == {number % 3}
        assert int(members[f"{stem}.cls"]) == number % 3
        assert members[f"{stem}.jpg"] == (source / "images/training" / f"ADE_{number}.jpg").read_bytes()
    assert report.manifest.label_space.classes == SPACE.classes
    assert open_shards(source.parent / "set", "train").split.class_counts == (2, 2, 2)
    assert report.manifest.splits["train"].origin["plan"]["reduce_zero_label"] == "True"


def test_without_reduce_zero_label_zero_is_the_first_class(source):
    (source.parent / "classes.txt").write_text("other\nsky\ntree\nroad\n")
    build(plan(source, reduce_zero_label=False))
    members = read_members(source.parent / "set" / "ade-train-000000.tar")
    assert decode_mask(members["training/ADE_1.seg.png"])[0, :2].tolist() == [0, 2]


def test_masks_that_cannot_be_used_are_counted_and_named(source):
    put(source, "bad_size", filled(1), size=(20, 26))
    put(source, "bad_class", filled(4))
    put(source, "empty", np.zeros((20, 26), np.uint8))
    put(source, "colour", np.zeros((20, 26, 3), np.uint8))
    report = build(plan(source))
    assert report.dropped == {"mask": 3, "unlabelled": 1}
    notes = [json.loads(line) for line in report.notes[0].read_text().splitlines()]
    reasons = {note["name"]: note["reason"] for note in notes}
    assert reasons["bad_size.jpg"] == "its mask has 26 x 20 pixels, the image 20 x 26; they must be the same"
    assert reasons["bad_class.jpg"] == "its mask holds the value 4; the 3 classes are 1 to 3, and 255 is none"
    assert reasons["empty.jpg"] == "no pixel of its mask has a class"
    assert reasons["colour.jpg"] == (
        "its mask is a PNG of mode RGB; a mask has one channel of 8 or 16 bits, the number of a class"
    )


def test_an_image_without_a_mask_is_refused_or_left_out_and_a_mask_without_an_image_is_named(source):
    put(source, "alone", None)
    Image.fromarray(filled(1)).save(source / "annotations/training/left.png")
    with pytest.raises(
        UserError, match=r"1 of 7 images have no mask in .*, the first is 'alone.jpg', which wants alone.p"
    ):
        build(plan(source))
    report = build(plan(source, incomplete="skip"))
    assert report.manifest.splits["train"].num_samples == 6
    assert any("1 images without a mask were left out, 'alone.jpg' for one" in remark for remark in report.remarks)
    assert any("1 masks have no image, 'left.png' for one" in remark for remark in report.remarks)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"classes": None}, "a mask holds numbers; give the names of their classes"),
        ({"source_split": None}, "has the splits training; choose one with --source-split"),
        ({"source_split": "test"}, "has no split 'test'; it has training"),
        ({"image": ImageOptions(max_short_edge=10)}, "--max-short-edge: would change the image and not its mask"),
        (
            {"layout": "image-folder", "source_split": None, "classes": None},
            "--reduce-zero-label has no meaning without",
        ),
    ],
)
def test_refusals(source, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        build(plan(source, **changes))


def test_a_mask_of_many_classes_has_16_bits_and_comes_back(tmp_path):
    classes = np.array([[0, 299], [IGNORED, 7]], np.int16)
    content = encode_mask(classes, num_classes=300)
    assert Image.open(io.BytesIO(content)).mode == "I;16"
    assert (decode_mask(content) == classes).all()
    assert (decode_mask(encode_mask(np.minimum(classes, 9), num_classes=10)) == np.minimum(classes, 9)).all()
    space = LabelSpace(name="many", classes=tuple(f"c{number}" for number in range(300)))
    Image.fromarray(np.array([[300, 300], [65535, 0]], np.uint16)).save(tmp_path / "a.png")
    rule = MaskRule(folder=tmp_path, label_space=space, reduce_zero_label=True)
    mask = prepare_mask("a.jpg", (2, 2), rule)
    assert decode_mask(mask.content).tolist() == [[299, 299], [IGNORED, IGNORED]]
    assert mask.label == 299


def test_of_a_palette_the_indices_count_and_damaged_masks_are_told(tmp_path):
    image = Image.fromarray(np.array([[1, 2]], np.uint8))
    image.putpalette([200, 100, 50] * 3)
    image.save(tmp_path / "a.png")
    rule = MaskRule(folder=tmp_path, label_space=SPACE, reduce_zero_label=False)
    assert decode_mask(prepare_mask("a.jpg", (2, 1), rule).content).tolist() == [[1, 2]]
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(DroppedImageError, match="its mask is not decodable"):
        prepare_mask("a.jpg", (2, 1), rule)
    with pytest.raises(DroppedImageError, match=r"its mask b.png cannot be read \(No such file"):
        prepare_mask("b.jpg", (2, 1), rule)
    with pytest.raises(UndecodableImageError):
        decode_mask(b"no image")


@pytest.mark.slow  # imports scikit-learn
def test_scenes_have_exact_masks_and_are_the_same_again(tmp_path):
    options = SceneOptions(num_training=4, num_validation=2, size=48)
    told = write_scenes(tmp_path / "a", options)
    write_scenes(tmp_path / "b", options)
    assert told == f"{tmp_path / 'a'}: 4 + 2 scenes of 10 classes and background"
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.png"))
    assert len(files) == 12
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    for file in files[:6]:
        assert len(np.unique(Image.open(tmp_path / "a" / file))) > 1
    with pytest.raises(UserError, match="holds scenes already"):
        write_scenes(tmp_path / "a", options)


def test_scenes_of_own_cutouts_show_them_where_the_mask_says(tmp_path):
    """Red discs on grey: the mask is where the image is red."""
    disc = np.zeros((40, 40, 4), np.uint8)
    rows, columns = np.ogrid[:40, :40]
    disc[(rows - 20) ** 2 + (columns - 20) ** 2 < 300] = (255, 0, 0, 255)
    for number in range(12):
        for folder, name, pixels in (
            ("objects/disc", f"disc_{number}.png", disc),
            ("grey", f"grey_{number}.png", np.full((60, 60, 3), 128, np.uint8)),
            ("objects/disc", f"flat_{number}.png", np.full((9, 9, 3), 9, np.uint8)),
        ):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / name)
    options = SceneOptions(num_training=3, num_validation=1, size=64)
    told = write_scenes(tmp_path / "out", options, objects=tmp_path / "objects", backgrounds=tmp_path / "grey")
    assert "12 images without alpha were left out" in told
    assert (tmp_path / "out/classes.txt").read_text() == "background\ndisc\n"
    for path in (tmp_path / "out/images").rglob("*.png"):
        red = np.asarray(Image.open(path)).astype(int)
        mask = np.asarray(Image.open(str(path).replace("images", "annotations")))
        is_red = red[..., 0] - red[..., 1] > 127
        assert mask.sum() > 50
        assert (is_red == (mask == 1)).mean() > 0.97
    with pytest.raises(UserError, match="holds no class folders"):
        write_scenes(tmp_path / "none", options, objects=tmp_path / "grey")


def test_cutouts_that_their_owner_has_split_stay_where_they_are(tmp_path):
    """Squares: red ones to train on, green ones for validation, which names alone would mix."""
    for split, colour in (("training", (255, 0, 0, 255)), ("validation", (0, 255, 0, 255))):
        for number in range(6):
            for name in ("square", "box"):
                path = tmp_path / "objects" / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((8, 8, 4), colour, np.uint8)).save(path)
    (tmp_path / "grey").mkdir()
    for number in range(12):
        Image.fromarray(np.full((60, 60, 3), 128, np.uint8)).save(tmp_path / "grey" / f"{number}.png")
    options = SceneOptions(num_training=5, num_validation=5, size=64)
    write_scenes(tmp_path / "out", options, objects=tmp_path / "objects", backgrounds=tmp_path / "grey")
    assert (tmp_path / "out/classes.txt").read_text() == "background\nbox\nsquare\n"
    for split, channel in (("training", 0), ("validation", 1)):
        for path in (tmp_path / "out/images" / split).iterdir():
            pixels = np.asarray(Image.open(path)).astype(int)
            assert (pixels[..., channel] - pixels[..., 1 - channel]).max() > 200
            assert (pixels[..., 1 - channel] - pixels[..., channel]).max() < 50


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"size": 16}, "size: must be at least 32, not 16"),
        ({"num_validation": 0}, "num-validation: must be at least 1, not 0"),
        ({"num_digits": 11}, "num-digits: must be at most 10, not 11"),
    ],
)
def test_scenes_that_cannot_be_are_refused(values, sentence):
    with pytest.raises(UserError, match=sentence):
        SceneOptions(**values)

from pathlib import Path
from types import SimpleNamespace

import pytest

from hornet.errors import UserError
from hornet.hardware import get_gpu
from hornet.planning.question import Question
from hornet.planning.samples import find_samples
from hornet.shards.label_space import LabelSpace
from hornet.shards.manifest import MANIFEST_NAME, Manifest, Split, write_manifest
from hornet.shards.shard_set import open_shards
from hornet.shards.views.subset import SubsetPlan, make_subset
from tests.unit.shards.making import make_set, write_shards


def find(place, *, index=None, **known):
    config = SimpleNamespace(shards=place, split="train", index=index)
    return find_samples(config, Question(gpu=get_gpu("h100-80"), num_gpus=1, **known))


def write_set(folder):
    split = Split(
        name="train",
        shard_folder=".",
        shards=("a.tar", "b.tar"),
        shard_lengths=(3, 4),
        shard_bytes=(1000, 2000),
        shard_sha256=(None, None),
        index="train.idx",
        index_sha256="0" * 64,
        class_counts=(3, 4),
    )
    space = LabelSpace(name="two", classes=("x", "y"))
    write_manifest(
        Manifest(path=folder / MANIFEST_NAME, name="set", label_space=space, splits={"train": split}),
    )
    return folder


def test_a_set_that_is_there_is_asked(tmp_path):
    found = find(write_set(tmp_path))
    assert (found.num_samples, found.num_classes, found.num_bytes) == (7, 2, 3000)
    assert found.source == str(tmp_path / MANIFEST_NAME)


def test_what_is_given_goes_before_what_the_set_says(tmp_path):
    found = find(write_set(tmp_path), num_samples=70)
    assert (found.num_samples, found.num_classes, found.num_bytes) == (70, 2, 30_000)


@pytest.mark.parametrize(
    ("place", "num_samples", "num_classes"),
    [("data/imagenet-22k", 14_197_122, 21_841), ("s3://bucket/imagenet-1k", 1_281_167, 1000)],
)
def test_a_known_name_is_enough_and_said(place, num_samples, num_classes):
    found = find(place, bytes_per_image=50_000)
    assert (found.num_samples, found.num_classes) == (num_samples, num_classes)
    assert found.num_bytes == num_samples * 50_000
    assert found.source == f"{place} is not here: assumed to be the known {place.rpartition('/')[2]}, 50 kB an image"


def test_anything_else_must_be_given():
    with pytest.raises(
        UserError, match=r"data\.shards: data/mine is not here.*imagenet-22k are.*--samples and --classes"
    ):
        find("data/mine")
    found = find("data/mine", num_samples=10, num_classes=3)
    assert (found.num_samples, found.num_classes, found.source) == (10, 3, "given")


def test_tars_named_by_a_pattern_are_indexed_where_the_config_says(tmp_path):
    write_shards(tmp_path / "tars", num_shards=3, samples_per_shard=4)
    found = find(f"{tmp_path}/tars/toy-{{00..02}}.tar", index=tmp_path / "index")
    num_bytes = sum(path.stat().st_size for path in (tmp_path / "tars").glob("*.tar"))
    assert (found.num_samples, found.num_bytes) == (12, num_bytes)
    opened = open_shards(f"{tmp_path}/tars/toy-*.tar", "train", index=tmp_path / "index")
    assert found.num_classes == len(opened.label_space)
    assert Path(found.source).is_relative_to(tmp_path / "index")


def test_tars_that_are_elsewhere_must_be_described(tmp_path):
    with pytest.raises(UserError, match=r"data\.shards: tars/a-\{0\.\.9\}\.tar is not here.*--samples and --classes"):
        find("tars/a-{0..9}.tar", index=tmp_path)
    with pytest.raises(UserError, match=r"data\.shards: .*none-\*\.tar: names no tar.*; or give --samples"):
        find(f"{tmp_path}/none-*.tar", index=tmp_path)
    assert find("tars/a-{0..9}.tar", num_samples=10, num_classes=3).source == "given"


def test_a_view_is_as_large_as_its_own_images(tmp_path):
    """A tenth of ImageNet-22K names all of its tars, and reads a tenth of them."""
    whole = make_set(tmp_path / "whole", num_shards=3, samples_per_shard=40)
    plan = dict.fromkeys(("split", "per_class", "classes", "exclude"))
    plan |= {"name": "tenth", "seed": 0, "allow_empty_classes": False, "allow_unmatched": False}
    make_subset(SubsetPlan(source=whole, output=tmp_path / "tenth", fraction=0.1, **plan))
    found = find(tmp_path / "tenth")
    records = open_shards(tmp_path / "tenth", "train").records
    assert (found.num_samples, found.num_bytes) == (12, records["span"].sum())
    assert found.num_bytes < 0.12 * find(whole).num_bytes

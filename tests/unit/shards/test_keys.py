"""Names of samples: unique within a part, printable, without dots."""

from __future__ import annotations

import inspect
import re

from hypothesis import given
from hypothesis import strategies as st
from webdataset.tariterators import tar_file_iterator

from hornet.shards.build.keys import make_key, name_keys
from hornet.shards.tar import split_name

NAMES = st.text(st.sampled_from("ab._/2\n\x00é \\"), min_size=1, max_size=8)


def keys(part: str, names: list[str]) -> list[str]:
    return [make_key(part, name, twin) for name, twin in zip(names, name_keys(names), strict=True)]


def test_imagenets_own_names_stay() -> None:
    assert keys("n01440764", ["n01440764_10026.JPEG"]) == ["n01440764_10026"]


def test_other_names_get_their_part() -> None:
    assert keys("n01440764", ["n0144076_1.JPEG", "cat.jpg"]) == ["n01440764/n0144076_1", "n01440764/cat"]
    assert keys("n01440764", ["n01440764_a/x.jpg"]) == ["n01440764/n01440764_a/x"], "else it could be another part's"
    assert keys("c.d", ["deep/x.y.jpg"]) == ["c_d/deep/x_y"]


def test_twins_are_numbered_past_names_that_are_taken() -> None:
    assert keys("p", ["a.jpg", "a.png", "a.webp", "a_2.jpg"]) == ["p/a", "p/a_3", "p/a_4", "p/a_2"]


def test_a_class_whose_name_webdataset_keeps_for_itself_gets_another() -> None:
    assert keys("__background__", ["a.jpg"]) == ["__background_/a"]
    assert keys("__init_subclass", ["__a__.jpg"]) == ["__init_subclass/__a__"], "nothing is kept there"


@given(st.text(st.sampled_from("_a./"), min_size=1, max_size=6))
def test_webdataset_passes_over_no_key(part: str) -> None:
    kept = inspect.signature(tar_file_iterator).parameters["skip_meta"].default
    [key] = keys(part, ["a.jpg"])
    assert not re.match(kept, f"{key}.jpg")
    assert split_name(f"{key}.jpg") == (key, "jpg")


@given(st.lists(NAMES, max_size=12, unique=True))
def test_keys_are_unique_and_read_back_by_webdatasets_rule(names: list[str]) -> None:
    made = keys("part", names)
    assert len(set(made)) == len(made)
    for key in made:
        assert key.isprintable()
        assert split_name(f"{key}.jpg") == (key, "jpg")

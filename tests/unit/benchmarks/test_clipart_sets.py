"""What the experiments' sets are made of. `make_sets` as a whole needs the package of 6,900 images."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.clipart import sets
from hornet.errors import UserError


def put(folder, name, *, opaque_rows, mode="RGBA"):
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[:opaque_rows] = 255
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(folder / f"{name}.png")


@pytest.fixture
def classes(tmp_path):
    for number in range(6):
        put(tmp_path / "classes" / "food-fruit", f"fruit_{number}", opaque_rows=10)
    put(tmp_path / "classes" / "food", "lines", opaque_rows=1)
    put(tmp_path / "classes" / "food", "framed", opaque_rows=20)
    put(tmp_path / "classes" / "food", "flat", opaque_rows=10, mode="RGB")
    put(tmp_path / "classes" / "food", "bread", opaque_rows=10)
    return tmp_path / "classes"


def test_cutouts_are_of_their_split_and_have_something_to_cut_out(classes, tmp_path, monkeypatch):
    monkeypatch.setattr(sets, "SCENE_CLASSES", ("food",))
    monkeypatch.setattr(sets, "MAX_CUTOUTS", {"train": 3, "validation": 9})
    held = {
        "train": {"food-fruit": [f"fruit_{number}.png" for number in range(5)]},
        "validation": {"food-fruit": ["fruit_5.png"], "food": ["lines.png", "framed.png", "flat.png", "bread.png"]},
    }
    counts = sets._cut_out(held, classes, tmp_path / "objects")
    assert counts == {"train": {"food": 3}, "validation": {"food": 2}}
    found = sorted(path.name for path in (tmp_path / "objects" / "validation" / "food").iterdir())
    assert found == ["food--bread.png", "food-fruit--fruit_5.png"]
    again = tmp_path / "again"
    sets._cut_out(held, classes, again)
    trained = [
        {path.name for path in (folder / "training" / "food").iterdir()} for folder in (tmp_path / "objects", again)
    ]
    assert trained[0] == trained[1], "drawn by name, so the same again"
    assert len(trained[0]) == 3


def test_sets_that_are_there_are_left_alone(tmp_path):
    (tmp_path / "coarse").mkdir()
    with pytest.raises(UserError, match="coarse: is there already; remove it to make it anew"):
        sets.make_sets(tmp_path, tmp_path)


def test_a_command_that_fails_is_named(capfd):
    with pytest.raises(UserError, match=r"scenes\.py --no-such-option` ended with exit code 2"):
        sets._call("scenes", "--no-such-option")
    assert "arguments are required: OUTPUT" in capfd.readouterr().err

"""The examples do what their first lines say."""

import runpy
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

import hornet  # noqa: F401
from hornet.shards.label_space import LabelSpace
from hornet.stages.pretrained import Pretrained
from hornet.training.checkpoints.saver import Checkpointer
from hornet.training.checkpoints.state import RunState
from hornet.training.config import RetentionConfig
from hornet.world import ALONE

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def load(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="example")


class WeightsEngine:
    def __init__(self, model):
        self.model = model

    def save(self, folder, writer):
        writer.take(folder / "state.pt", {"model": self.model.state_dict(), "optimizer": {}})


@pytest.fixture
def run(tmp_path, alone):
    """A run whose network says the second class of everything."""
    model = timm.create_model("hornet_atto_7x7", num_classes=3, img_size=32)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([0.0, 1.0, 0.5]))
    space = LabelSpace(name="pets", classes=("cat", "dog", "newt"))
    description = {"model": "hornet_atto_7x7", "image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
    checkpointer = Checkpointer(
        tmp_path / "run/checkpoints",
        engine=WeightsEngine(model),
        identity={"engine": "accelerate"},
        description={**description, "label_space": space.to_json()},
        world=ALONE,
        retention=RetentionConfig(),
        find_best=lambda steps: None,
        require_sole=lambda: None,
    )
    checkpointer.save(RunState(step=1))
    checkpointer.finish()
    checkpointer.close()
    return tmp_path / "run"


def test_an_image_is_classified_by_the_weights_of_a_run(run, tmp_path):
    Image.new("RGB", (40, 50), "red").save(tmp_path / "image.png")
    assert load("classify_an_image")["classify"](run, tmp_path / "image.png") == "dog"


@pytest.mark.parametrize(("size", "crop"), [(32, (0.875, "center")), (384, (1.0, "squash"))])
def test_an_image_is_seen_as_the_paper_evaluates(monkeypatch, tmp_path, size, crop):
    asked = {}

    def create_transform(**given):
        asked.update(given)
        return lambda image: torch.zeros(3, size, size)

    space = LabelSpace(name="pets", classes=("cat", "dog"))
    description = {"model": "hornet_atto_7x7", "image_size": size, "mean": [0.4] * 3, "std": [0.3] * 3}
    arguments = {"depths": [1, 1, 1, 1]}
    state_dict = timm.create_model("hornet_atto_7x7", num_classes=2, **arguments).state_dict()
    description["arguments"] = arguments
    found = Pretrained(state_dict=state_dict, label_space=space, description=description, source="here")
    example = load("classify_an_image")
    monkeypatch.setitem(example["classify"].__globals__, "read_pretrained", lambda *_, **__: found)
    monkeypatch.setattr(timm.data, "create_transform", create_transform)
    Image.new("RGB", (40, 50), "red").save(tmp_path / "image.png")
    assert example["classify"](tmp_path, tmp_path / "image.png") in space.classes
    assert (asked["crop_pct"], asked["crop_mode"]) == crop
    assert (asked["interpolation"], asked["input_size"]) == ("bicubic", (3, size, size))
    assert (asked["mean"], asked["std"]) == ((0.4,) * 3, (0.3,) * 3)


def test_features_come_in_four_scales():
    shapes = load("pyramid_features")["list_features"]()
    assert [shape[2:] for shape in shapes] == [(24, 40), (12, 20), (6, 10), (3, 5)]


def test_samples_of_a_set_are_read_by_number(toy_set):
    lines = load("read_a_set")["describe"](toy_set)
    assert lines == ["       0 toy-00/s0000: 26 x 20, label 0", "5 classes, 9 to 10 samples each"]

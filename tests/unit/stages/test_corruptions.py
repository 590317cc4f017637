"""ImageNet-C's folders and mean corruption error, against published numbers."""

import re
import shutil
import sys

import pytest

from hornet.config import build_config
from hornet.data.config import EvaluationConfig
from hornet.data.corruptions.names import COUNTED, EXTRA, SEVERITIES
from hornet.data.loader import open_evaluation_stream
from hornet.errors import UserError
from hornet.overrides import apply_overrides
from hornet.shards.manifest import read_manifest
from hornet.stages.config import EvaluateConfig
from hornet.stages.corruptions import ALEXNET_ERRORS, identify, list_corrupted, list_images, summarise
from tests.unit.shards.making import make_set

# AlexNet's errors by severity, as another publication of them gives them.
BY_SEVERITY = {
    "gaussian_noise": (0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
    "shot_noise": (0.71224, 0.85108, 0.93574, 0.98182, 0.99146),
    "impulse_noise": (0.78374, 0.89808, 0.9487, 0.9872, 0.99548),
    "defocus_blur": (0.65624, 0.73202, 0.85036, 0.91364, 0.94714),
    "glass_blur": (0.64308, 0.75054, 0.88806, 0.91622, 0.93344),
}
# ResNet-50 (76.13 % on clean images): top-1 in percent, and the published corruption error.
RESNET_50 = {
    "brightness": (68.02, 56.64),
    "contrast": (39.06, 71.43),
    "defocus_blur": (38.75, 74.71),
    "elastic_transform": (45.25, 84.75),
    "fog": (45.83, 66.11),
    "frost": (38.14, 74.84),
    "gaussian_noise": (29.29, 79.77),
    "glass_blur": (26.79, 88.61),
    "impulse_noise": (23.81, 82.58),
}


def test_the_table_is_the_mean_over_severities():
    assert tuple(ALEXNET_ERRORS) == COUNTED
    for name, errors in BY_SEVERITY.items():
        assert sum(errors) / 5 == pytest.approx(ALEXNET_ERRORS[name], abs=1e-9)


def test_alexnet_itself_has_100():
    errors = {(name, s): error for name, error in ALEXNET_ERRORS.items() for s in SEVERITIES}
    found = summarise(errors, is_imagenet=True)
    assert found.mce == pytest.approx(100)
    assert found.missing == ()


@pytest.mark.parametrize(("name", "top1", "error"), [(name, *row) for name, row in RESNET_50.items()])
def test_resnet_50_has_its_published_errors(name, top1, error):
    spread = (0.02, 0.01, 0.0, -0.01, -0.02)  # severities differ; their mean is what counts
    found = summarise({(name, s): 1 - top1 / 100 - spread[s - 1] for s in SEVERITIES}, is_imagenet=True)
    assert found.normalised[name] == pytest.approx(error, abs=0.011), "of top-1 to two digits"
    assert found.mce is None
    assert len(found.missing) == 14
    assert found.reason.endswith("are missing")
    assert found.mean_error == pytest.approx(100 - top1)


def test_the_extra_ones_do_not_count():
    errors = {(name, s): error for name, error in ALEXNET_ERRORS.items() for s in SEVERITIES}
    errors |= {(name, s): 0.5 for name in EXTRA for s in SEVERITIES}
    found = summarise(errors, is_imagenet=True)
    assert found.mce == pytest.approx(100)
    assert set(found.errors) - set(found.normalised) == set(EXTRA)
    assert found.mean_error == pytest.approx(100 * sum(ALEXNET_ERRORS.values()) / 15)


def test_what_is_not_imagenet_has_a_mean_error_and_no_mce():
    found = summarise({(name, s): s / 10 for name in COUNTED for s in SEVERITIES}, is_imagenet=False)
    assert (found.normalised, found.mce, found.missing) == ({}, None, ())
    assert found.mean_error == pytest.approx(30)
    assert found.reason == "it compares with AlexNet's errors, which are those on ImageNet-1K at 224 pixels"
    assert summarise({("spatter", s): 0.5 for s in SEVERITIES}, is_imagenet=False).mean_error is None


def make(folder, *sets):
    for name in sets:
        (folder / name).mkdir(parents=True)
        (folder / name / "_info.json").touch()
    return folder


def test_sets_come_in_the_papers_order(tmp_path):
    names = [f"{name}/{severity}" for name in ("snow", "spatter", "gaussian_noise") for severity in SEVERITIES]
    found = list_corrupted(make(tmp_path, *names))
    assert [name for name, _ in found[::5]] == ["gaussian_noise", "snow", "spatter"]
    assert [severity for _, severity in found] == [1, 2, 3, 4, 5] * 3


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([], "holds no sets as gaussian_noise/3/_info.json; build one of each folder of ImageNet-C"),
        (["rain/1"], "rain is none of ImageNet-C's: gaussian_noise, shot_noise"),
        ([f"snow/{s}" for s in (1, 2, 4, 5)], "snow must hold a set for each severity, 1 to 5, .* (3 is missing)"),
        ([f"snow/{s}" for s in range(1, 7)], "snow must hold a set for each severity, 1 to 5, .* (6 is none)"),
    ],
)
def test_a_folder_that_is_none_is_told(tmp_path, sets, message):
    with pytest.raises(UserError, match="^corruptions: .*" + re.escape(message).replace(r"\.\*", ".*")):
        list_corrupted(make(tmp_path, *sets))


def list_names(folder, *names):
    found, are_made = list_images(EvaluationConfig(shards=folder, image_size=224), names=names)
    return [(images.corruption, str(images.data.shards), images.corrupt is not None) for images in found], are_made


def test_a_folder_of_sets_is_read(tmp_path):
    make(tmp_path, *(f"{name}/{severity}" for name in ("snow", "fog") for severity in SEVERITIES))
    found, are_made = list_names(tmp_path, "fog")
    assert found == [(f"fog/{severity}", f"{tmp_path}/fog/{severity}", False) for severity in SEVERITIES]
    assert not are_made
    assert len(list_names(tmp_path)[0]) == 10
    with pytest.raises(UserError, match=r"^corruption_names: .* holds no sets of frost$"):
        list_names(tmp_path, "frost", "fog")


def test_a_folder_of_sets_is_known_by_all_that_is_in_it(tmp_path, toy_set):
    """Whatever is asked of it; a copy elsewhere is the same, and one with another set in it is not."""
    for name in ("snow/1", "snow/2", "snow/3", "snow/4", "snow/5"):
        shutil.copytree(toy_set, tmp_path / "c" / name)
    found = [name_sets(tmp_path / "c", "corruptions=true", *more) for more in ((), ("corruption_names=[snow]",))]
    shutil.copytree(tmp_path / "c", tmp_path / "copy/c")
    other = make_set(tmp_path / "other", samples_per_shard=5)
    assert found[0] == found[1] == name_sets(tmp_path / "copy/c", "corruptions=true")
    assert found[0][0] == "c"
    alone = name_sets(toy_set, "corruptions=true")
    assert alone == name_sets(toy_set) != found[0], "corruptions that are made here are of one set"
    assert alone[0] == read_manifest(toy_set).name
    shutil.rmtree(tmp_path / "c/snow/5")
    shutil.copytree(other, tmp_path / "c/snow/5")
    assert name_sets(tmp_path / "c", "corruptions=true")[1] != found[0][1]


def name_sets(folder, *overrides):
    values = {"source": "x.pth", "evaluation": {"shards": str(folder), "split": "train", "image_size": 224}}
    assert not apply_overrides(values, overrides)
    config = build_config(EvaluateConfig, values, source="here")
    first = list_images(config.evaluation, names=())[0][0].data if config.corruptions else config.evaluation
    return identify(config, open_evaluation_stream(first))


@pytest.mark.parametrize("place", ["set", "s3://bucket/set", "tars/a-{000..003}.tar"])
def test_of_a_set_its_own_images_come_first_and_then_what_is_made_of_them(tmp_path, place):
    if place == "set":
        place = str(make(tmp_path, "set") / "set")
    found, are_made = list_names(place)
    assert found[0] == (None, place, False)
    assert found[1:] == [(f"{n}/{s}", place, True) for n in (*COUNTED, *EXTRA) for s in SEVERITIES]
    assert are_made
    assert [name for name, _, _ in list_names(place, "fog")[0]] == [None, *(f"fog/{s}" for s in SEVERITIES)]


def test_without_scipy_it_is_named(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "hornet.data.corruptions.corruption", raising=False)
    for name in ("optics", "digital", "drops", "blur", "weather"):
        monkeypatch.delitem(sys.modules, f"hornet.data.corruptions.{name}", raising=False)
        monkeypatch.delattr(f"hornet.data.corruptions.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(UserError, match=r"^corruptions: are made with scipy, which is missing .*`pip install scipy`$"):
        list_names(make(tmp_path, "set") / "set", "fog")

"""A downloaded HorNet is recognised by its content, and told from others by their keys."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

import hornet  # noqa: F401  registers the models
from finetune.start import name_released
from hornet.cli.evaluate import read_config
from hornet.errors import UserError
from hornet.shards.imagenet import make_layout
from hornet.stages.pretrained import Pretrained
from hornet.stages.recognise import guess_label_space, recognise


def state_of(name: str, **arguments: object) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return dict(timm.create_model(name, **arguments).state_dict())


@pytest.mark.parametrize(
    ("name", "image_size", "num_rows"),
    [
        ("hornet_tiny_7x7", 224, 1000),
        ("hornet_tiny_gf", 224, 1000),
        ("hornet_large_gf", 224, 21_841),
        ("hornet_large_7x7", 224, 10_459),
        ("hornet_large_gf_img384", 384, 10_459),
    ],
)
def test_the_released_ones(name: str, image_size: int, num_rows: int) -> None:
    found = recognise(state_of(name, num_classes=num_rows), source="x.pth")
    assert (found.model, found.image_size, found.num_rows) == (name, image_size, num_rows)


@pytest.mark.parametrize(
    ("num_rows", "name"), [(1000, "imagenet-1k"), (10_459, "hornet-22k"), (21_841, "imagenet-22k"), (7, None)]
)
def test_what_the_head_means(num_rows: int, name: str | None) -> None:
    found = guess_label_space(num_rows)
    assert (None if found is None else found.name) == name
    assert name is None or make_layout(name) == found


def test_filters_of_another_size_without_a_name_of_its_own() -> None:
    found = recognise(state_of("hornet_tiny_gf", img_size=384, num_classes=5), source="x.pth")
    assert (found.model, found.image_size) == ("hornet_tiny_gf", 384)


def test_a_backbone_without_a_head() -> None:
    state = {key: value for key, value in state_of("hornet_tiny_7x7").items() if not key.startswith("head.")}
    assert recognise(state, source="x.pth").num_rows == 0


@pytest.mark.slow
def test_what_is_none_is_refused_with_the_keys_that_differ() -> None:
    state = state_of("hornet_tiny_gf")
    state["extra.weight"] = torch.zeros(1)
    state["norm.weight"] = torch.zeros(3)
    del state["stages.0.0.norm1.weight"]
    with pytest.raises(
        UserError,
        match=r"x\.pth: is not recognised; the nearest network is hornet_tiny_gf, from which it differs: 1 missing "
        r"\(stages\.0\.0\.norm1\.weight\); 1 unknown \(extra\.weight\); 1 of another shape \(norm\.weight \(3,\) for "
        r"\(512,\)\); say which network it is with model=NAME",
    ):
        recognise(state, source="x.pth")


def test_another_family_is_none() -> None:
    with pytest.raises(UserError, match=r"x\.pth: is not recognised as a HorNet: downsample_layers\S+ is not there"):
        recognise({"stem.0.weight": torch.zeros(96, 3, 4, 4)}, source="x.pth")
    with pytest.raises(UserError, match=r"weight is \(80, 3, 4, 4\), and the known ones have 8, 16, 24, 32, 48"):
        recognise({"downsample_layers.0.0.weight": torch.zeros(80, 3, 4, 4)}, source="x.pth")


def save(folder: Path, name: str, **arguments: object) -> Path:
    torch.manual_seed(0)
    torch.save({"model": timm.create_model(name, **arguments).state_dict()}, folder / "hornet.pth")
    return folder / "hornet.pth"


def test_one_command_evaluates_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = save(tmp_path, "hornet_atto_gf", num_classes=1000, img_size=384)
    config = read_config(file, config=None, overrides=["evaluation.shards=s"])
    assert (config.model, config.evaluation.image_size, config.evaluation.crop_fraction) == (
        "hornet_atto_gf",
        384,
        None,
    )
    assert capsys.readouterr().err == f"{file}: is a hornet_atto_gf, for 384 pixels\n"
    config = read_config(file, config=None, overrides=["evaluation.shards=s", "evaluation.image_size=224"])
    assert (config.evaluation.image_size, config.evaluation.crop_fraction) == (224, 0.875)
    config = read_config(file, config=None, overrides=["evaluation.shards=s", "sizes=[256,320]"])
    assert (config.sizes, config.evaluation.image_size) == ((256, 320), 256)


def start_of(name: str, num_rows: int) -> Pretrained:
    state = state_of(name, num_classes=num_rows)
    return Pretrained(state_dict=state, label_space=None, description={}, source="x.pth")


def test_finetuning_knows_the_released_heads() -> None:
    found, remarks = name_released(start_of("hornet_large_gf", 10_459))
    assert found.label_space == make_layout("hornet-22k")
    assert remarks == [
        "hornet_large_gf for 224 pixels, whose 10459 rows are taken for hornet-22k (start.label_space says otherwise)"
    ]


@pytest.mark.slow
def test_finetuning_guesses_nothing_else() -> None:
    own = start_of("hornet_tiny_7x7", 10)
    assert name_released(own) == (own, [])
    other = start_of("convnext_atto", 1000)
    assert name_released(other) == (other, []), "another network's rows may be in any order"

"""The published recipes as data, and the audit that compares a config with them."""

from dataclasses import replace
from pathlib import Path

import pytest

from hornet.config import ConfigError, build_config, flatten_values, load_config, to_values
from hornet.stages.recipe import PUBLISHED, RecipeConfig, format_audit, list_departures
from pretrain.config import PretrainConfig, require_clipping

ROOT = Path(__file__).resolve().parents[3]
LARGE = load_config(PretrainConfig, path=ROOT / "configs/pretrain/hornet_large_gf_in22k.yaml")

# TRAINING.md @ac9e210, typed from its commands.
KEYS = (
    "model.drop_path_rate",
    "optimizer.clip_grad_norm",
    "data.transform.rand_augment",
    "optimizer.weight_decay",
    "optimizer.ema_decay",
    "schedule.num_epochs",
    "schedule.warmup_epochs",
    "schedule.peak_lr",
)
TABLE = {
    "in1k_tiny_7x7": (0.2, 100, "m9", 0.05, 0.9999, 300, 20, 4e-3),
    "in1k_tiny_gf": (0.2, 1, "m9", 0.05, 0.9999, 300, 20, 4e-3),
    "in1k_small_7x7": (0.4, 5, "m9", 0.05, 0.9999, 300, 20, 4e-3),
    "in1k_small_gf": (0.4, 1, "m12", 0.05, 0.9999, 300, 20, 4e-3),
    "in1k_base_7x7": (0.5, 5, "m9", 0.05, 0.9999, 300, 20, 4e-3),
    "in1k_base_gf": (0.5, 1, "m15", 0.05, 0.9999, 300, 20, 4e-3),
    "in22k_large_7x7": (0.2, 5, "m9", 0.1, None, 90, 5, 4e-3),
    "in22k_large_gf": (0.2, 1, "m9", 0.1, None, 90, 5, 4e-3),
    "in1k_384_large_7x7": (0.4, 1, "m9", 1e-8, 0.9999, 30, 0, 5e-5),
    "in1k_384_large_gf": (0.4, 1, "m9", 1e-8, 0.9999, 30, 0, 5e-5),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_rows_are_those_of_the_originals_commands(name):
    row = PUBLISHED[name]
    magnitude = row["data.transform.rand_augment"].split("-")[1]
    assert tuple(magnitude if key.endswith("rand_augment") else row[key] for key in KEYS) == TABLE[name]
    assert row["global_batch_size"] == (512 if "384" in name else 4096)
    assert row["model.name"] == "hornet_" + "_".join(name.split("_")[-2:])


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_key_of_a_row_is_a_key_of_the_config(name):
    """Else a departure would be reported for ever."""
    keys = dict(flatten_values(to_values(LARGE))).keys() | {"precision"}
    assert PUBLISHED[name].keys() <= keys


def test_a_departure_is_told_with_both_values_and_a_remark():
    config = replace(LARGE, global_batch_size=1024)
    departures = {entry.key: entry for entry in list_departures(config)}
    assert set(departures) == {"global_batch_size", "zero.precision", "recipe.clipping"}
    assert (departures["global_batch_size"].published, departures["global_batch_size"].ours) == (4096, 1024)
    lines = format_audit("in22k_large_gf", list(departures.values())).splitlines()
    assert lines[0] == "recipe in22k_large_gf: 3 departures from the published values"
    batch = next(line for line in lines if "global_batch_size" in line)
    assert batch.split()[:3] == ["global_batch_size", "4096", "1024"]
    assert batch.endswith("the published learning rate belongs to the published batch; nothing is scaled here")


def test_a_config_without_departures_says_so_and_one_without_a_name_says_nothing():
    assert format_audit("in1k_tiny_gf", []) == "recipe in1k_tiny_gf: no departure from the published values"
    assert list_departures(replace(LARGE, recipe=RecipeConfig())) == []
    published = replace(
        LARGE, recipe=replace(LARGE.recipe, clipping="paper"), zero=replace(LARGE.zero, stage=0, precision="fp32")
    )
    assert list_departures(published) == []


def test_an_unknown_recipe_is_answered_with_the_nearest_or_all():
    values = to_values(LARGE)
    for wrong, answer in (("in22k_large", "did you mean in22k_large_"), ("?", "known here: in1k_tiny_7x7, ")):
        values["recipe"]["published"] = wrong
        with pytest.raises(ConfigError, match=answer):
            build_config(PretrainConfig, values, source="test")


def test_clipping_as_in_the_paper_needs_whole_gradients_between_micro_steps():
    paper = replace(LARGE, recipe=RecipeConfig(clipping="paper"))
    with pytest.raises(ValueError, match=r"each of the 2 micro steps, but with zero\.stage=1 .*; use zero\.stage=0"):
        require_clipping(paper, num_micro_steps=2)
    require_clipping(paper, num_micro_steps=1)
    require_clipping(replace(paper, zero=replace(paper.zero, stage=0)), num_micro_steps=2)
